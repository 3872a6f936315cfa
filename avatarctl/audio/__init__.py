"""Takes any audio file, gives waveforms and wav2vec 2.0 states."""
