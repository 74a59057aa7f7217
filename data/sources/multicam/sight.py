"""One camera's sight of a person at one instant."""

from dataclasses import dataclass, field

import numpy as np

from data.find.detection import Detection
from data.sources.multicam.views import View


@dataclass
class Sight:
    """Where a view shows a person.

    Attributes:
        view: the camera.
        box: (4,) tight, in undistorted pixels.
        detection: what was found there, in pixels of the frame, or None.
        others: who else may be in the crop.
    """

    view: View
    box: np.ndarray
    detection: Detection | None = None
    others: list[Detection] = field(default_factory=list)
