"""Where people are, from files of other programs: one reader a format.

    reading      read_detections: what the command calls
    source       a file or folder as the readers see it, and what they yield
    registry     FORMATS: the names of ``boxes_format=`` and who reads them
    names        which video a file's name means
    linking      one person over the frames of a file that does not say who is who
    gaps         boxes between those that a file has
    own, mot, coco, openpose, ultralytics     the formats

All results are in pixels of the upright image, the first pixel's corner at (0, 0), frames from 0.
"""

from data.sources.detections.gaps import fill_gaps
from data.sources.detections.reading import read_detections
from data.sources.detections.registry import FORMATS

__all__ = ["FORMATS", "fill_gaps", "read_detections"]
