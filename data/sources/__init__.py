"""Clips from images of real people.

Videos with boxes, synchronised calibrated cameras, labelled datasets.
"""
