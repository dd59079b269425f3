"""Run folder ↔ objects."""
