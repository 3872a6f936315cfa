"""Takes plans and tensors, gives latents: windows, their order, noise, guidance, blending; no files, no weights."""
