"""Speeds and memory, measured; not shipped."""
