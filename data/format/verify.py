"""Is a shard whole, and does every sample in it decode?

What `python -m data verify` asks of each.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import simplejpeg

from data.format.clip import decode_masks, decode_meta
from data.format.frame import decode_frame, decode_ids, decode_ignore, is_frame
from data.format.index import build_index
from data.format.label_files import load_arrays
from data.format.labels import read_labels
from data.format.surface import MEMBER as SURFACE
from data.format.surface import read_surface
from engine.errors import Failure, explain

IMAGE = re.compile(r"\d\d+\.jpg")
KNOWN = {"json", "masks.bin", "labels.npz", "jpg", "ids.png", "ignore.png", SURFACE}


@dataclass
class Report:
    """What was found in one shard.

    Attributes:
        path: the tar.  clips, crops: how many were read.
        problems: [(key, reason), ...]; the key is "" for what concerns the shard as a whole.
        notes: lines on what is unusual but does no harm.
    """

    path: str
    clips: int = 0
    crops: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line a problem, with the shard and the key."""
        return [f"{self.path}:{key}: {reason}" if key else reason for key, reason in self.problems]


def check_shard(path: str) -> Report:
    """Read a shard from its first byte to its last.

    A Report, also where nothing in it can be read.
    """
    report = Report(path)
    unknown: Counter[str] = Counter()
    try:
        # Built from the tar, not read from beside it: a stale index must not hide what the tar
        # holds.
        index = build_index(path)
        report.notes += [f"{path}: {note}" for note in index.notes]
        with open(path, "rb") as file:
            for i, key in enumerate(index.keys.tolist()):
                members = index.members(i)
                reasons, crops = check_sample(file, members, f"{path}:{key}")
                if len(members) != index.starts[i + 1] - index.starts[i]:
                    reasons.append("two members have the same name")
                report.problems += [(key, reason) for reason in reasons]
                report.clips, report.crops = report.clips + 1, report.crops + crops
                unknown.update(
                    name for name in members if name not in KNOWN and not IMAGE.fullmatch(name)
                )
    except Failure as error:
        report.problems.append(("", str(error)))
    except OSError as error:
        report.problems.append(("", f"cannot read shard {path}: {explain(error)}"))
    report.notes += [
        f"{path}: member '{name}' of {count} sample{'s' * (count > 1)} is not used"
        for name, count in sorted(unknown.items())
    ]
    return report


def check_sample(
    file: BinaryIO, members: Mapping[str, tuple[int, int]], where: str
) -> tuple[list[str], int]:
    """([reason, ...], number of crops) of one sample; no reasons where it is whole.

    Args:
        file: the open tar.  members: {suffix: (offset, length)}.  where: "SHARD:KEY" for messages.
    Raises:
        UserError: a newer version of this software wrote it.
    """

    def read(name: str) -> bytes:
        file.seek(members[name][0])
        return file.read(members[name][1])

    if "json" not in members:
        return ["the .json member is missing"], 0
    if is_frame(read("json")):
        return _check_frame({name: read(name) for name in members}, where), 1
    try:
        clip, meta = decode_meta(read("json"), where), json.loads(read("json"))
    except ValueError as error:
        return [f"json: {error}"], 0
    count = len(clip.crops)
    reasons: list[str] = []

    def read_masks(data: bytes) -> None:
        decode_masks(data, count)

    def check_labels(data: bytes) -> None:
        # Format 1 left it to the writer what labels hold.
        load_arrays(data) if meta["format"] == 1 else read_labels(data, count)

    for i in range(count):
        name = f"{i:02d}.jpg"
        reasons += (
            _image(read(name), name, clip.size, clip.size)
            if name in members
            else [f"{name} is missing"]
        )
    images = sum(IMAGE.fullmatch(name) is not None for name in members)
    if images > count:
        reasons.append(f"{images} images, but the json names {count} crops")
    for name, said, decode in (
        ("masks.bin", meta.get("masks"), read_masks),
        ("labels.npz", meta.get("labels"), check_labels),
        (SURFACE, meta.get("surface"), lambda data: read_surface(data, count, clip.size)),
    ):
        if bool(said) != (name in members):
            there = "is there" if name in members else "is missing"
            reasons.append(
                f"{name} {there}, but the json says '{name.split('.')[0]}: "
                f"{json.dumps(bool(said))}'"
            )
        elif said:
            try:
                decode(read(name))
            except ValueError as error:
                words = str(error)
                reasons.append(words if words.startswith(name) else f"{name}: {words}")
    return reasons, count


def _check_frame(found: dict[str, bytes], where: str) -> list[str]:
    """[reason, ...] of a whole frame of these members; see check_sample."""
    try:
        frame, meta = decode_frame(found["json"], where), json.loads(found["json"])
    except ValueError as error:
        return [f"json: {error}"]
    reasons = ["jpg is missing"]
    if "jpg" in found:
        reasons = _image(found["jpg"], "jpg", frame.width, frame.height)
    for name, said, decode in (
        ("ids.png", meta.get("ids"), lambda data: decode_ids(data, frame)),
        ("ignore.png", meta.get("ignore"), lambda data: decode_ignore(data, frame)),
        ("labels.npz", meta.get("labels"), lambda data: read_labels(data, len(frame.people))),
    ):
        if bool(said) != (name in found):
            there = "is there" if name in found else "is missing"
            reasons.append(f"{name} {there}, but the json says otherwise")
        elif said:
            try:
                decode(found[name])
            except ValueError as error:
                words = str(error)
                reasons.append(words if words.startswith(name) else f"{name}: {words}")
    return reasons


def _image(data: bytes, name: str, wide: int, high: int) -> list[str]:
    try:
        height, width, _ = simplejpeg.decode_jpeg(data, "RGB").shape
    except ValueError as error:
        return [f"{name} does not decode: {error}"]
    return (
        []
        if (height, width) == (high, wide)
        else [f"{name} is {width} x {height}, the json says {wide} x {high}"]
    )
