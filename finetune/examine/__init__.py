"""Searching synthetic humans for where a network fails: ``python -m finetune examine``."""
