"""Recipe, examples and base → a run folder."""
