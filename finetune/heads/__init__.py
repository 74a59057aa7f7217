"""Heads: from an encoder's tokens to people's meshes; one module each, found by ``head.name=``."""
