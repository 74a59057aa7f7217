"""Trained weights that others use: as a file of their own, by name, by URL, from a hub."""
