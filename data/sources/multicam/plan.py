"""The clips of one take."""

import os
from collections.abc import Mapping, Sequence

from data.cropping.geometry import square_around
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.boxes import read_people
from data.sources.multicam.clock import read_clock
from data.sources.multicam.cylinder import follow_cylinder
from data.sources.multicam.people import box_people, match_people
from data.sources.multicam.search import search_views
from data.sources.multicam.sight import Sight
from data.sources.multicam.views import View, open_views
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems

Seen = dict[int, list[Sight]]  # by instant


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of one take.

    Raises:
        UserError: cameras and videos that do not belong together, or nobody seen by two cameras.
    """
    matched, found = open_views(cfg, problems)
    times, views = read_clock(cfg, matched)
    take = os.path.basename(os.path.normpath(cfg.videos))
    plans = []
    for person, seen in locate_people(cfg, times, views, problems).items():
        plans += _plan_person(cfg, take, person, times, seen)
    return plans, found


def locate_people(
    cfg: PairsConfig, times: Mapping[int, float], views: Sequence[View], problems: Problems
) -> dict[str, Seen]:
    """Return {person: Seen} by boxes, a track, where the cameras point, or who is found."""
    if cfg.boxes:
        boxed = read_people(cfg, times, views)
    elif cfg.track or cfg.people == "axes":
        boxed = {"0": follow_cylinder(cfg, times, views)}
    else:
        searched = search_views(cfg, views, problems)
        people, clock = match_people(cfg, times, views, searched)
        return box_people(people, clock, searched, cfg)
    people_seen: dict[str, Seen] = {}
    for person, seen in boxed.items():
        people_seen[person] = {i: [Sight(*entry) for entry in found] for i, found in seen.items()}
    return people_seen


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


def _those_inside(sights, least):
    return [
        sight
        for sight in sights
        if share_inside(sight.box, sight.view.camera.width, sight.view.camera.height) >= least
    ]


def _plan_crops(
    sights: Sequence[Sight], instant: int, time_s: float, margin: float
) -> list[CropPlan]:
    return [
        CropPlan(
            sight.view.video.path,
            sight.view.frames[instant],
            sight.view.camera.name,
            time_s,
            square_around(sight.box, margin).box,
            sight.view.camera,
            sight.detection,
            sight.view.camera.quarter_turns,
            sight.others,
        )
        for sight in sights
    ]
