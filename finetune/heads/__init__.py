"""Heads: from an encoder's tokens to what is recovered."""
