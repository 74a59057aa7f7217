"""People recovered while a camera runs, shown on a page of this machine."""
