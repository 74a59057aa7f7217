"""Using a trained network: reading images, loading a run, recovering people."""
