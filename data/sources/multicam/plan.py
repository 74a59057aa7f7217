"""The clips of one take."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from data.cropping.geometry import square_around
from data.find.detection import Detection
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.boxes import read_people
from data.sources.multicam.clock import read_clock
from data.sources.multicam.cylinder import follow_cylinder
from data.sources.multicam.views import View, open_views
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems

# {instant: [(view, tight box in undistorted pixels, what was found there or None)]}
Seen = dict[int, list[tuple[View, np.ndarray, Detection | None]]]


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of one take.

    Raises:
        UserError: cameras and videos that do not belong together, or nobody seen by two cameras.
    """
    matched, found = open_views(cfg, problems)
    times, views = read_clock(cfg, matched)
    take = os.path.basename(os.path.normpath(cfg.videos))
    plans = []
    for person, seen in locate_people(cfg, times, views).items():
        plans += _plan_person(cfg, take, person, times, seen)
    return plans, found


def locate_people(
    cfg: PairsConfig, times: Mapping[int, float], views: Sequence[View]
) -> dict[str, Seen]:
    """Return {person: Seen} by boxes, a track, or where the cameras point."""
    if cfg.boxes:
        boxed = read_people(cfg, times, views)
    else:
        boxed = {"0": follow_cylinder(cfg, times, views)}
    people: dict[str, Seen] = {}
    for person, seen in boxed.items():
        people[person] = {i: [(v, box, None) for v, box in entries] for i, entries in seen.items()}
    return people


def _plan_person(
    cfg: PairsConfig, take: str, person: str, times: Mapping[int, float], seen: Seen
) -> list[ClipPlan]:
    """The clips of one person."""
    whole = {i: _those_inside(entries, cfg.min_inside) for i, entries in seen.items()}
    instants = [i for i in times if whole.get(i)]
    if not instants:
        return []
    subject = cfg.subject or f"{cfg.source}/{take}/{person}"
    plans = []
    for chosen in choose_instants([times[i] for i in instants], f"{take}/{person}", cfg):
        crops = []
        for instant in (instants[c] for c in chosen):
            crops += _plan_crops(whole[instant], instant, times[instant], cfg.margin)
        if len(crops) >= 2:
            key = clip_key(take, person, f"{instants[chosen[0]]:06d}")
            plans.append(ClipPlan(key, subject, crops, track=f"{take}/{person}"))
    return plans


def _those_inside(entries, least):
    return [
        entry
        for entry in entries
        if share_inside(entry[1], entry[0].camera.width, entry[0].camera.height) >= least
    ]


def _plan_crops(entries: Sequence, instant: int, time_s: float, margin: float) -> list[CropPlan]:
    return [
        CropPlan(
            view.video.path,
            view.frames[instant],
            view.camera.name,
            time_s,
            square_around(box, margin).box,
            view.camera,
            detection,
            view.camera.quarter_turns,
        )
        for view, box, detection in entries
    ]
