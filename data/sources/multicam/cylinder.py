"""A person told by a point: a vertical cylinder along a track, or where all cameras look."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.sources.cameras import project_distorted
from data.sources.config import PairsConfig
from data.sources.multicam.views import View
from data.sources.tables import read_track
from engine.errors import UserError
from engine.geometry import angle_about, camera_centre, point_nearest_lines, project
from engine.logging.console import get_logger

_NEAREST_M = 0.1  # a body that reaches nearer than this to a camera has no box

log = get_logger(__name__)


def follow_cylinder(
    cfg: PairsConfig, times: Mapping[int, float], views: Sequence[View]
) -> dict[int, list[tuple[View, np.ndarray]]]:
    """Return {instant: [(View, tight box in undistorted pixels)]} of a vertical cylinder.

    Along the track or where the cameras look.

    Raises:
        UserError: a track of other instants, a head under the floor, cameras that look nowhere.
    """
    axis, sign = "xyz".index(cfg.person.up[-1]), -1.0 if cfg.person.up[0] == "-" else 1.0
    if cfg.track:
        points = {i: p for i, p in read_track(cfg.track).items() if i in times}
        if not points:
            raise UserError(
                f"track={cfg.track} has none of the {len(times)} instants from {min(times)} to "
                f"{max(times)}"
            )
        how = (
            f"under track={cfg.track}"
            if cfg.person.track_point == "head"
            else f"around track={cfg.track}"
        )
    else:
        point = _looked_at(cfg, views)
        points = dict.fromkeys(times, point)
        x, y, z = np.round(point, 2) + 0.0  # the sum turns -0.0 into 0.0
        how = f"around the point nearest all cameras' axes, ({x:.2f}, {y:.2f}, {z:.2f}) m"
    log.info(
        f"the person is {how}, in a cylinder of radius {cfg.person.radius_m:g} m; angles between "
        f"cameras there: "
        f"{tell_angles(views, np.mean(list(points.values()), 0))}"
    )
    seen = {}
    for i, point in points.items():
        if cfg.track and cfg.person.track_point == "head":
            ends = (sign * cfg.person.floor_m, point[axis])
            if sign * (ends[1] - ends[0]) <= 0:
                raise UserError(
                    f"{cfg.track}: in frame {i} the head is at {sign * point[axis]:g} m, not above "
                    f"the floor, "
                    f"person.floor_m={cfg.person.floor_m:g}"
                )
        else:
            ends = (point[axis] - cfg.person.height_m / 2, point[axis] + cfg.person.height_m / 2)
        rims = _rims(point, axis, ends, cfg.person.radius_m)
        boxes = [(v, _box_of(v.camera, rims)) for v in views if i in v.frames]
        seen[i] = [(v, box) for v, box in boxes if box is not None]
    return seen


def _looked_at(cfg, views):
    Rts = [v.camera.Rt for v in views]
    try:
        point = point_nearest_lines([camera_centre(Rt) for Rt in Rts], [Rt[2, :3] for Rt in Rts])
    except ValueError:
        raise UserError(
            f"{cfg.calibration}: all cameras look the same way, so where the person is must be "
            f"told: "
            "give track=FILE or boxes=FILE"
        ) from None
    for view in views:
        pixel, depth = project_distorted(view.camera, point)
        if depth <= 0 or not np.isfinite(pixel).all():
            raise UserError(
                f"camera {view.camera.name} looks away from the point nearest all cameras' axes: "
                "give track=FILE or boxes=FILE"
            )
    return point


def _rims(point, axis, ends, radius_m):
    """(32, 3) points on the two rims of a cylinder along a world axis."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.tile(np.asarray(point, np.float64), (16, 1))
    rim[:, (axis + 1) % 3] += radius_m * np.cos(angle)
    rim[:, (axis + 2) % 3] += radius_m * np.sin(angle)
    low, high = rim.copy(), rim
    low[:, axis], high[:, axis] = ends
    return np.concatenate([low, high])


def _box_of(camera, points):
    """Return the tight box of world points in undistorted pixels.

    None where one is behind the camera or too near.
    """
    at, depth = project(points, camera.K, camera.Rt)
    return None if depth.min() < _NEAREST_M else np.concatenate([at.min(0), at.max(0)])


def tell_angles(views: Sequence[View], point: np.ndarray) -> str:
    """Words for the angles between cameras about a world point."""
    texts = []
    for a, first in enumerate(views):
        for second in views[a + 1 :]:
            angle = angle_about(
                point, camera_centre(first.camera.Rt), camera_centre(second.camera.Rt)
            )
            texts.append(f"{first.camera.name}/{second.camera.name} {np.degrees(angle):.0f} deg")
    return ", ".join(texts[:15]) + (" ..." if len(texts) > 15 else "")
