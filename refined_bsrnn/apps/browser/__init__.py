"""Separation in a browser."""
