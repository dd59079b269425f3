"""Measured speeds and memory, one command per question; not part of the installed package."""
