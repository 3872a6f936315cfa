"""Sampling on plans and tensors: windows, their order, noise, guidance, blending; no files, no weights."""
