"""``python -m data find``: the search for people alone, for a cluster or to look at first.

What it finds lies in OUT/found, where ``data pairs out=OUT`` and ``data pairs found=OUT`` take it
from, and in OUT/detections.json, which ``boxes=`` of any command reads.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.find.config import FindConfig
from data.find.found import Found
from data.find.search import Run, check_ready, search_videos
from data.find.store import DETECTIONS, Store, digest_search, index_store
from data.format.clip import KINDS
from data.sources.probe import Problems, list_videos, probe_videos
from data.tools.work_split import HELP, Part
from engine.config.parser import key, parse_keys, section
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import write_file

COMMAND = "data find"

log = get_logger(__name__)


@dataclass
class FindRunConfig:
    """Holds the keys of ``python -m data find``."""

    out: str = key("", "folder for what is found", path="one")
    videos: str = key("", "folder of videos, or one video", path="one")
    kind: str = key(
        "body", "as for data pairs: all but body search hands too", choices=(*KINDS, "hand", "all")
    )
    find: FindConfig = section(FindConfig)
    workers: int = key(1, "processes", low=1)
    part: str | None = key(None, HELP)

    def check(self) -> None:
        """Raise UserError where a key is missing."""
        for name in ("out", "videos"):
            if not getattr(self, name):
                raise UserError(f"{name}= must be given")
        Part.of(self.part)


def main(argv: Sequence[str]) -> int:
    """Search the videos and write what is found.

    Returns:
        0, or 1 where a video was skipped; the others' people are kept.

    Raises:
        UserError: bad keys, no videos, no networks.  Failure: the folder cannot be written.
    """
    cfg, _ = parse_keys(FindRunConfig, argv, COMMAND, least=0)
    videos, problems = list_videos(cfg.videos), Problems()
    hands = cfg.kind != "body"
    check_ready(cfg.out, cfg.find, hands)
    mine = Part.of(cfg.part)
    own = {name: path for n, (name, path) in enumerate(videos.items()) if mine.has(n)}
    readable = probe_videos(list(own.values()), cfg.workers, problems, index_store(cfg.out))
    named = {name: readable[path] for name, path in own.items() if path in readable}
    found = search_videos(named, cfg.find, hands, Run(cfg.out, cfg.workers), problems)
    path = os.path.join(cfg.out, DETECTIONS)
    everybody = found | _load_others(cfg, videos, hands, found)
    _write(path, everybody)
    # Another part may have ended, and written its list, since this one looked.
    while late := _load_others(cfg, videos, hands, everybody):
        everybody = everybody | late
        _write(path, everybody)
    people = sum(len(one.tracks) for one in everybody.values())
    print(f"{people} people in {len(everybody)} of {len(videos)} videos: {path}")
    if everybody and not people:
        log.warning("nobody was found: find.score_min=%g may be lower", cfg.find.score_min)
    for skipped, reason in sorted(problems.skipped.items()):
        log.warning("skipped %s: %s", skipped, reason)
    return 1 if problems.skipped else 0


def list_rows(found: Mapping[str, Found]) -> Iterator[dict]:
    """Yield the rows of a file of boxes: one a person and frame, of their bodies.

    ``keypoints`` holds x, y and confidence of each of coco17, ``left_hand`` and ``right_hand``
    those of hand21; pixels.
    """
    for name, one in sorted(found.items()):
        for person, track in one.tracks.items():
            for frame, seen in track.items():
                x0, y0, x1, y1 = seen.box.tolist()
                row = {
                    "video": name,
                    "frame": frame,
                    "person": person,
                    "x0": x0,
                    "y0": y0,
                    "x1": x1,
                    "y1": y1,
                    "score": seen.score,
                }
                if seen.keypoints is not None and seen.joint_set == "coco17":
                    row["keypoints"] = seen.keypoints.ravel().tolist()
                for side, hand in seen.hands.items():
                    if hand.keypoints is not None:
                        row[f"{side}_hand"] = hand.keypoints.ravel().tolist()
                yield row


def _load_others(cfg, videos, hands, known) -> dict[str, Found]:
    """The people of all other videos that are searched by now, by whichever part of the command."""
    store, out = Store(cfg.out), {}
    for name in sorted(set(videos) - set(known)):
        path = videos[name]
        try:
            found = store.load(name, digest_search(path, cfg.find, hands))
        except OSError:
            continue  # its own part of the command tells
        if found is not None:
            out[name] = found
    return out


def _write(path, found):
    rows = [json.dumps(row, separators=(",", ":")) for row in list_rows(found)]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_file(path, "[\n" + ",\n".join(rows) + "\n]\n")
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
