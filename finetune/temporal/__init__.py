"""Tracks over time: jitter of single frames taken out."""
