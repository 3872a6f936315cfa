"""Read recordings: waveforms, wav2vec 2.0 states, levels, vocals."""
