"""The data checker."""
