"""Layouts: the ways in which data sets store their songs."""
