"""Where data sets keep their songs."""
