"""Clips of the people and hands that a search of the videos finds; no file beside the footage."""

from collections.abc import Iterator

from data.find.found import Found
from data.find.quality import LeftOut, choose_bodies, choose_hands
from data.find.search import Run, check_ready, search_videos
from data.find.store import index_store
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.person_clips import plan_body, plan_hand, wanted_sides
from data.sources.plan import ClipPlan
from data.sources.probe import Problems, list_videos, probe_videos
from data.tools.work_split import Part
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of all videos, searched or read from an earlier search.

    Raises:
        UserError: no videos, nobody in any of them, the networks are not there.
    """
    videos = list_videos(cfg.videos)
    folder, part = cfg.found or cfg.out, Part.of(cfg.part)
    check_ready(folder, cfg.find, bool(wanted_sides(cfg.kind)))
    # The elements of an array index their own videos first, and then find the others' there.
    own = [path for number, path in enumerate(videos.values()) if part.has(number)]
    paths = [*own, *(path for path in videos.values() if path not in set(own))]
    readable = probe_videos(paths, cfg.workers, problems, index_store(folder))
    named = {name: readable[path] for name, path in videos.items() if path in readable}
    if not named:
        raise UserError(f"videos={cfg.videos}: none of its {len(videos)} videos can be read")
    run = Run(folder, cfg.workers, part)
    found = search_videos(named, cfg.find, bool(wanted_sides(cfg.kind)), run, problems)
    if not found:
        raise UserError(f"videos={cfg.videos}: the search for people failed in all its videos")
    if not any(one.tracks for one in found.values()):
        raise UserError(
            f"nobody was found in videos={cfg.videos} ({len(named)} videos, "
            f"{sum(one.searched for one in found.values())} frames searched): lower find.score_min "
            f"({cfg.find.score_min:g}), or bring boxes=FILE of a detector of your own"
        )
    left_out = LeftOut.nothing()
    plans = []
    for name, one in found.items():
        left_out.still += one.still
        if cfg.subject and len(one.tracks) > 1:
            log.warning(
                f"{name}: subject={cfg.subject} names one person, but {len(one.tracks)} tracks "
                "were found; all of them get this name"
            )
        plans += plan_video(cfg, name, named[name], one, left_out)
    if said := left_out.describe(cfg.find):
        log.info(said)
    people = sum(len(one.tracks) for one in found.values())
    log.info(f"found {people} people in {len(found)} videos; {len(plans)} clips of them")
    return plans, readable


def plan_video(
    cfg: PairsConfig, name: str, video: Frames, found: Found, left_out: LeftOut
) -> Iterator[ClipPlan]:
    """Yield the clips of one video's people.

    Args:
        left_out: counts what is not good enough.
    """
    for person in found.tracks:
        if cfg.kind in ("body", "all"):
            seen = choose_bodies(found, person, cfg.find, left_out)
            yield from plan_body(cfg, name, person, video, seen, found.tracks)
        for side in wanted_sides(cfg.kind):
            seen = choose_hands(found, person, side, cfg.find, left_out)
            yield from plan_hand(cfg, name, person, video, seen, side)
