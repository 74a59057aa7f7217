"""Maps of an image: targets drawn from labels, their losses, errors and images."""
