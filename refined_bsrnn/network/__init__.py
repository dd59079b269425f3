"""Mixture (B, C, L) → spectrogram → features → masks → estimates."""
