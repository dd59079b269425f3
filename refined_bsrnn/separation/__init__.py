"""Audio of any length, rate and channel count → estimates, as a stream."""
