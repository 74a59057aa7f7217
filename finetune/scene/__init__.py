"""Everybody in an image at once: the network, its training, and what it finds."""
