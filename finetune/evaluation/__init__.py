"""Errors of fine-tuned runs: which crops, which metrics, tables, and what is written."""
