"""Clips of one person from synchronised, calibrated cameras.

All cameras that see them, at the same instants.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from data.cropping.geometry import square_around
from data.sources.cameras import (
    Camera,
    fit_to_video,
    match_videos,
    project_distorted,
    read_cameras,
    undistort_pixels,
)
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems, list_videos, probe_videos
from data.sources.tables import check_boxes, fill_gaps, read_boxes, read_timestamps, read_track
from engine.errors import UserError
from engine.geometry import angle_about, camera_centre, point_nearest_lines, project, triangulate
from engine.logging.console import get_logger

_NEAREST_M = 0.1  # a body that reaches nearer than this to a camera has no box

log = get_logger(__name__)


@dataclass
class View:
    """One camera with its video and, for each instant, the frame of it.

    The frame is missing where it recorded none.
    """

    camera: Camera
    stem: str
    video: Frames
    frames: dict


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of one take.

    Raises:
        UserError: cameras and videos that do not belong together, or nobody seen by two cameras.
    """
    matched = _match(cfg)
    found = probe_videos([path for _, _, path in matched], cfg.workers, problems)
    matched = [(camera, stem, found[path]) for camera, stem, path in matched if path in found]
    if len(matched) < 2:
        raise UserError(
            f"videos={cfg.videos}: {len(matched)} of the calibrated cameras' videos can be read; 2 "
            f"are needed"
        )
    times, views = _clock(
        cfg, [(_fit(cfg, camera, video), stem, video) for camera, stem, video in matched]
    )
    people = _where(cfg, times, views)
    plans = []
    take = os.path.basename(os.path.normpath(cfg.videos))
    for person, seen in people.items():
        instants = [i for i in times if seen.get(i)]
        for chosen in (
            choose_instants([times[i] for i in instants], f"{take}/{person}", cfg)
            if instants
            else ()
        ):
            crops = [
                CropPlan(
                    v.video.path,
                    v.frames[i],
                    v.camera.name,
                    times[i],
                    square_around(box, cfg.margin).box,
                    v.camera,
                    quarter_turns=v.camera.quarter_turns,
                )
                for i in (instants[c] for c in chosen)
                for v, box in seen[i]
            ]
            if len(crops) >= 2:
                subject = cfg.subject or f"{cfg.source}/{take}/{person}"
                plans.append(
                    ClipPlan(clip_key(take, person, f"{instants[chosen[0]]:06d}"), subject, crops)
                )
    return plans, found


def _match(cfg):
    """Return [(camera, stem, path)].

    A camera's video has its name, or the one that cameras.NAME.video says.
    """
    cameras = read_cameras(
        cfg.calibration, cfg.calibration_format, cfg.calibration_unit, cfg.calibration_part
    )
    videos = list_videos(cfg.videos)
    for name, keys in cfg.cameras.items():
        if name not in cameras:
            raise UserError(
                f"cameras.{name}: {cfg.calibration} has the cameras {', '.join(cameras)}"
            )
        if keys.video is not None and keys.video not in videos:
            raise UserError(
                f"cameras.{name}.video={keys.video}: {cfg.videos} has the videos "
                f"{', '.join(videos)}"
            )
    told = {name: keys.video for name, keys in cfg.cameras.items() if keys.video}
    stems = match_videos(cameras, videos, told)
    matched = [
        (camera, stems[name], videos[stems[name]])
        for name, camera in cameras.items()
        if name in stems
    ]
    if len(matched) < 2:
        raise UserError(
            f"{len(matched)} cameras match a video: {cfg.calibration} has {', '.join(cameras)}, "
            f"{cfg.videos} has {', '.join(videos)}; map them with cameras.NAME.video="
        )
    for name in cameras:
        if name not in stems:
            log.info(f"camera {name}: no video of that name; left out")
        elif stems[name] != name and name not in told:
            log.info(f"camera {name}: its video is {videos[stems[name]]}, by its name")
    for stem in sorted(set(videos) - {stem for _, stem, _ in matched}):
        log.info(f"{videos[stem]}: no camera of that name in {cfg.calibration}; left out")
    return matched


def _fit(cfg, camera, video):
    offset = (0.0, 0.0)
    if camera.name in cfg.cameras:
        keys = cfg.cameras[camera.name]
        offset = (keys.offset_x, keys.offset_y)
        turns = keys.quarter_turns(camera.name)
        if turns is not None:
            camera = replace(camera, quarter_turns=turns)
    if camera.width and (video.width, video.height) != (camera.width, camera.height):
        log.info(
            f"camera {camera.name}: the video is {video.width}x{video.height}, its calibration is "
            f"for {camera.width}x"
            f"{camera.height}; taken as cut off at offset ({offset[0]:g}, {offset[1]:g})"
        )
    return fit_to_video(camera, video.width, video.height, offset, cfg.size_slack_px)


def _clock(cfg, matched):
    """({instant: seconds}, [View]) by the timestamps file, or frame by frame."""
    if cfg.timestamps:
        times, frames = read_timestamps(cfg.timestamps)
        views = []
        for camera, stem, video in matched:
            known = next(
                (
                    frames[n]
                    for n in (camera.name, stem, camera.name.removeprefix("cam_"))
                    if n in frames
                ),
                None,
            )
            if known is None:
                raise UserError(
                    f"{cfg.timestamps} has no cam_id for camera {camera.name}, only for "
                    f"{', '.join(sorted(frames))}"
                )
            if len(known) != video.count:
                log.info(
                    f"{video.path} has {video.count} frames, {cfg.timestamps} has {len(known)} for "
                    f"it"
                )
            views.append(
                View(camera, stem, video, {i: f for i, f in known.items() if f < video.count})
            )
        return times, views
    rates, counts = [v.fps for _, _, v in matched], [v.count for _, _, v in matched]
    if max(rates) > 1.01 * min(rates):
        raise UserError(
            f"videos={cfg.videos} run at {min(rates):g} and {max(rates):g} frames a second; "
            "give timestamps=FILE to say which frames belong together"
        )
    if len(set(counts)) > 1:
        log.info(
            f"videos of {min(counts)} to {max(counts)} frames: the first {min(counts)} are taken "
            f"from each"
        )
    same = {i: i for i in range(min(counts))}
    return {i: i / rates[0] for i in same}, [
        View(camera, stem, video, same) for camera, stem, video in matched
    ]


def _where(cfg, times, views):
    """Return {person: {instant: [(View, tight box in undistorted pixels)]}}.

    For those that see enough of the person.
    """
    if cfg.boxes:
        people = _from_boxes(cfg, times, views)
    else:
        people = {"0": _from_cylinder(cfg, times, views)}
    kept = {}
    for person, seen in people.items():
        kept[person] = {
            i: [
                (v, box)
                for v, box in found
                if share_inside(box, v.camera.width, v.camera.height) >= cfg.min_inside
            ]
            for i, found in seen.items()
        }
    return kept


def _from_boxes(cfg, times, views):
    boxes = read_boxes(cfg.boxes)
    if not any(v.stem in boxes or v.camera.name in boxes for v in views):
        raise UserError(
            f"boxes={cfg.boxes} is for {', '.join(sorted(boxes))}, but the videos are "
            f"{', '.join(v.stem for v in views)}"
        )
    people = defaultdict(lambda: defaultdict(list))
    for view in views:
        for person, rows in boxes.get(view.stem, boxes.get(view.camera.name, {})).items():
            check_boxes(rows, view.video.width, view.video.height)
            filled = fill_gaps(rows, cfg.fill_gaps_frames)
            for i in times:
                if view.frames.get(i) in filled:
                    people[person][i].append(
                        (view, _ideal_box(view.camera, filled[view.frames[i]]))
                    )
    log.info(f"the person is where boxes={cfg.boxes} says; {_agreement(people)}")
    return people


def _ideal_box(camera, box):
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


def _from_cylinder(cfg, times, views):
    """Return {instant: [(View, box)]} of a vertical cylinder.

    Along the track or where the cameras look.
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
        f"{_angles(views, np.mean(list(points.values()), 0))}"
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


def _angles(views, point):
    texts = []
    for a, first in enumerate(views):
        for second in views[a + 1 :]:
            angle = angle_about(
                point, camera_centre(first.camera.Rt), camera_centre(second.camera.Rt)
            )
            texts.append(f"{first.camera.name}/{second.camera.name} {np.degrees(angle):.0f} deg")
    return ", ".join(texts[:15]) + (" ..." if len(texts) > 15 else "")
