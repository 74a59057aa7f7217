"""One file a format of calibration: what recognises it, and what its fields mean."""
