"""Songs on disk → examples and whole tracks."""
