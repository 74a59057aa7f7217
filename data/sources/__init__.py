"""Clips from pictures of real people: videos with boxes, synchronised calibrated cameras, labelled datasets."""
