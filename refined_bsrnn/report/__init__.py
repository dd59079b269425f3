"""results.json → tables, charts and one web page."""
