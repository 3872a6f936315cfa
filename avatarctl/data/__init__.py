"""Encode videos of people speaking into a cache of samples to train on."""
