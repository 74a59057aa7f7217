"""Finding people and hands in images and videos, and following them over frames."""
