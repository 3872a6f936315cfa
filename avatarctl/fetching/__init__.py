"""Bring sets of weights into the weights folder: downloaded or linked, checked, recorded."""
