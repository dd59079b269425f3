"""Run × tracks → results.json."""
