"""One mesh from two images of a person, through the decoder of pre-training."""
