"""What is in shards of whole frames: shapes, people, how much of them is shown, how large."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.format.frame import ASPECTS, Frame, decode_frame, find_aspect
from data.format.index import build_index

SHARES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.95, 1.0)  # borders of the shares that are shown
HEIGHTS = (0, 32, 64, 128, 256, 512, 1024)  # px, of the box within the frame


@dataclass
class FrameTally:
    """Counts over frames.

    Attributes:
        frames, labelled, calibrated, ignoring: how many, the last those with places of people of
            whom nothing is said.  scenes: names.
        aspects, people: {aspect's number: frames}, {number of people: frames}.
        shown: of each person who knows it.  heights: px of each box within its frame.
    """

    frames: int = 0
    labelled: int = 0
    calibrated: int = 0
    ignoring: int = 0
    scenes: set[str] = field(default_factory=set)
    aspects: Counter[int] = field(default_factory=Counter)
    people: Counter[int] = field(default_factory=Counter)
    shown: list[float] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)

    def add(self, frame: Frame, meta: Mapping[str, Any]) -> None:
        """Count a frame; ``meta`` is its JSON."""
        self.frames += 1
        self.labelled += bool(meta.get("labels"))
        self.ignoring += bool(meta.get("ignore"))
        self.calibrated += frame.K is not None
        self.scenes.add(frame.scene)
        self.aspects[find_aspect(frame.width, frame.height)] += 1
        self.people[len(frame.people)] += 1
        for person in frame.people:
            if person.shown is not None:
                self.shown.append(person.shown)
            if person.box is not None:
                low, high = np.clip([person.box[1], person.box[3]], 0, frame.height)
                self.heights.append(float(high - low))


def read_frames(path: str) -> Iterator[tuple[Frame, Mapping[str, Any]]]:
    """Yield each Frame of a shard that decodes, and its JSON."""
    index = build_index(path)
    with open(path, "rb") as file:
        for i, key in enumerate(index.keys.tolist()):
            place = index.members(i).get("json")
            if place is None:
                continue
            file.seek(place[0])
            data = file.read(place[1])
            try:
                yield decode_frame(data, f"{path}:{key}"), json.loads(data)
            except ValueError:
                continue  # `verify` lists it


def tally_frames(path: str) -> FrameTally:
    """The FrameTally of a shard."""
    tally = FrameTally()
    for frame, meta in read_frames(path):
        tally.add(frame, meta)
    return tally


def merge_frames(tallies: Iterable[FrameTally]) -> FrameTally:
    """One FrameTally of several."""
    whole = FrameTally()
    for one in tallies:
        whole.frames += one.frames
        whole.labelled += one.labelled
        whole.calibrated += one.calibrated
        whole.ignoring += one.ignoring
        whole.scenes |= one.scenes
        whole.aspects += one.aspects
        whole.people += one.people
        whole.shown += one.shown
        whole.heights += one.heights
    return whole


def describe_frames(tally: FrameTally) -> str:
    """A tally in lines."""
    names = list(ASPECTS)
    aspects = [f"{names[a]} {count}" for a, count in sorted(tally.aspects.items())]
    people = [f"{number}: {count}" for number, count in sorted(tally.people.items())]
    lines = [
        f"{tally.frames} frames of {len(tally.scenes)} scenes; {tally.labelled} with labels, "
        f"{tally.calibrated} with a camera, {tally.ignoring} with people of whom nothing is said",
        f"shapes        {', '.join(aspects)}",
        f"people        {', '.join(people)} (number: frames)",
        f"shown         {_describe_shares(tally.shown, SHARES, '')}",
        f"height        {_describe_shares(tally.heights, HEIGHTS, ' px')}",
    ]
    return "\n".join(lines)


def _describe_shares(values: list[float], borders: tuple[float, ...], unit: str) -> str:
    if not values:
        return "not known"
    counts, _ = np.histogram(np.clip(values, borders[0], borders[-1]), borders)
    words = [
        f"{low:g}-{high:g}{unit}: {count / len(values):.0%}"
        for low, high, count in zip(borders[:-1], borders[1:], counts, strict=True)
    ]
    return f"of {len(values)} people  {', '.join(words)}"
