"""Clips from images of real people: videos with boxes, synchronised calibrated cameras, labelled
datasets."""
