"""Takes videos of people speaking, gives a cache of encoded samples to train on."""
