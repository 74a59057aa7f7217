"""People told by a file of boxes, whose names hold across the cameras."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from data.sources.cameras import Camera, undistort_pixels
from data.sources.config import PairsConfig
from data.sources.detections import fill_gaps, read_detections
from data.sources.multicam.views import View
from engine.errors import UserError
from engine.geometry import project, triangulate
from engine.logging.console import get_logger

log = get_logger(__name__)


def read_people(
    cfg: PairsConfig, times: Mapping[int, float], views: Sequence[View]
) -> dict[str, dict[int, list[tuple[View, np.ndarray]]]]:
    """Return {person: {instant: [(View, tight box in undistorted pixels)]}} of ``boxes=``.

    Raises:
        UserError: a file of other videos, or boxes outside the images.
    """
    videos = {view.camera.name: view.video for view in views}
    by_camera = read_detections(cfg.boxes or "", videos, cfg.boxes_format)
    if not by_camera:
        raise UserError(
            f"boxes={cfg.boxes} lists nobody in the videos {', '.join(v.stem for v in views)}"
        )
    people: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for view in views:
        for person, track in by_camera.get(view.camera.name, {}).items():
            filled = fill_gaps(track, cfg.fill_gaps_frames)
            for i in times:
                if view.frames.get(i) in filled:
                    box = filled[view.frames[i]].box
                    people[person][i].append((view, ideal_box(view.camera, box)))
    log.info(f"the person is where boxes={cfg.boxes} says; {_agreement(people)}")
    return people


def ideal_box(camera: Camera, box: np.ndarray) -> np.ndarray:
    """Return the box in undistorted pixels around a box of the distorted image.

    By its corners and the middles of its sides.
    """
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    at = undistort_pixels(
        camera, [[x0, y0], [x, y0], [x1, y0], [x1, y], [x1, y1], [x, y1], [x0, y1], [x0, y]]
    )
    return np.concatenate([at.min(0), at.max(0)])


def _agreement(people):
    """Return how far the boxes' middles lie from one world point.

    Large where calibration, clock or person ids are wrong.
    """
    errors = []
    for seen in people.values():
        for found in list(seen.values())[::10]:
            if len(found) < 2:
                continue
            middles = np.array([[(b[:2] + b[2:]) / 2] for _, b in found])
            Ks, Rts = [v.camera.K for v, _ in found], [v.camera.Rt for v, _ in found]
            point = triangulate(middles, Ks, Rts)[0]
            errors += [
                np.linalg.norm(project(point, K, Rt)[0] - m[0]) / max(b[2:] - b[:2])
                for K, Rt, m, (_, b) in zip(Ks, Rts, middles, found, strict=True)
            ]
    if not errors:
        return "no instant has boxes in two cameras"
    share = 100 * np.median(errors)
    return f"their middles meet in one point to {share:.0f} % of a box's side (median)"
