"""Judges whoever is found in whole frames: by networks for scenes, and by a finder with crops."""
