"""The clips of one take."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.cropping.geometry import square_around
from data.find.detection import SIDES
from data.format.clip import KINDS
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.boxes import read_people
from data.sources.multicam.clock import read_clock
from data.sources.multicam.cylinder import follow_cylinder
from data.sources.multicam.hands import sight_hands
from data.sources.multicam.people import box_people, match_people
from data.sources.multicam.search import search_views
from data.sources.multicam.sight import Sight
from data.sources.multicam.views import View, open_views
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems
from engine.errors import UserError


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of one take.

    Raises:
        UserError: cameras and videos that do not belong together, or nobody seen by two cameras.
    """
    matched, found = open_views(cfg, problems)
    times, views = read_clock(cfg, matched)
    take = os.path.basename(os.path.normpath(cfg.videos))
    plans = []
    for one in locate_people(cfg, times, views, problems):
        plans += _plan_located(cfg, take, one, times)
    return plans, found


@dataclass
class Located:
    """A person, or one hand of theirs, and where it is seen.

    Attributes:
        person: name in the take.  kind: of the crops; None: the command's.
        seen: by instant.
    """

    person: str
    kind: str | None
    seen: dict[int, list[Sight]]


def locate_people(
    cfg: PairsConfig, times: Mapping[int, float], views: Sequence[View], problems: Problems
) -> list[Located]:
    """Return who is seen where: by boxes, a track, where the cameras point, or a search.

    Raises:
        UserError: hands and bodies are asked for of people who were not searched for.
    """
    if cfg.boxes:
        boxed = read_people(cfg, times, views)
    elif cfg.track or cfg.people == "axes":
        boxed = {"0": follow_cylinder(cfg, times, views)}
    else:
        searched = search_views(cfg, views, problems)
        people, clock = match_people(cfg, times, views, searched)
        return _locate_found(
            cfg.kind, people, clock, box_people(people, clock, searched, cfg.margin)
        )
    if cfg.kind not in KINDS:
        raise UserError(
            f"kind={cfg.kind}: people told by boxes=, track= or people=axes are of one kind: "
            f"{', '.join(KINDS)}"
        )
    return [
        Located(person, None, {i: [Sight(*entry) for entry in seen[i]] for i in seen})
        for person, seen in boxed.items()
    ]


def _locate_found(kind, people, views, boxed):
    """The bodies and hands that a kind asks for."""
    out = []
    for person, one in zip(boxed, people, strict=True):
        if kind in ("body", "all"):
            out.append(Located(person, "body", boxed[person]))
        for side in SIDES:
            if kind in ("hand", "all", f"{side}_hand"):
                out.append(Located(person, f"{side}_hand", sight_hands(one, side, views)))
    return out


def _plan_located(
    cfg: PairsConfig, take: str, one: Located, times: Mapping[int, float]
) -> list[ClipPlan]:
    """The clips of one person, or of one hand."""
    parts = [take, one.person]
    if one.kind not in (None, "body"):
        parts.append(one.kind)
    whole = {i: _those_inside(entries, cfg.min_inside) for i, entries in one.seen.items()}
    instants = [i for i in times if whole.get(i)]
    if not instants:
        return []
    subject = cfg.subject or f"{cfg.source}/{take}/{one.person}"
    plans = []
    for chosen in choose_instants([times[i] for i in instants], "/".join(parts), cfg):
        crops = []
        for instant in (instants[c] for c in chosen):
            crops += _plan_crops(whole[instant], instant, times[instant], cfg.margin)
        if len(crops) >= 2:
            key = clip_key(*parts, f"{instants[chosen[0]]:06d}")
            plans.append(ClipPlan(key, subject, crops, one.kind, track=f"{take}/{one.person}"))
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
