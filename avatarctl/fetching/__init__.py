"""Takes the name of a set of weights, gives its files in the weights folder: downloaded or linked, checked, recorded."""
