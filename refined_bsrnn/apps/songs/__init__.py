"""Songs on disk → stems on disk."""
