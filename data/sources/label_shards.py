"""``python -m data labels NAME``: crops of a labelled dataset's people, or whole frames, in shards.

The people are read in their order and a shard is made by one process, so its bytes depend on the
data set and the keys alone. A shard that has its name is whole: a killed command resumes with
those that are missing.
"""

import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice

import numpy as np

from data.find.faces import open_blur
from data.format.frame import encode_frame
from data.format.shards import shard_name, write_samples, write_shard
from data.sources.frame_groups import group_people
from data.sources.label_cut import CutStyle, LastImage, cut_person, image_name, join_crops
from data.sources.label_frame import cut_frame
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.plan import clip_key
from data.tools.cleanup import clear_leftovers
from data.tools.process_pool import spread
from data.tools.work_split import Part
from engine.config.parser import flat, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import write_file

COMMAND = "data labels"
RECIPE = "labels.json"
NOT_RECIPE = ("out", "workers", "root", "part")
CHECK = "--check"
SHOWN, NAMED = 20, 3  # reasons for skipping that are shown, and people named with each

log = get_logger(__name__)


@dataclass
class ShardTask:
    """A shard to write.

    Attributes:
        path: of the tar.
        samples: for each clip the images that become its crops, for each frame its people.
    """

    path: str
    samples: list[list[LabelledImage]]
    style: CutStyle


@dataclass
class ShardReport:
    """What became of a ShardTask.

    Attributes:
        written: clips, or frames.  skipped: [(person, reason), ...].
    """

    written: int
    skipped: list[tuple[str, str]]


def main(argv: list[str]) -> int:
    """Write what is missing of OUT; returns the exit code, 1 where somebody was skipped.

    Raises:
        UserError: no such source, a bad key, a folder of something else, labels that make no sense.
    """
    usage = f"python -m {COMMAND} NAME out=DIR root=DIR [key=value ...]"
    words = [word for word in argv if word != CHECK]
    if not words or words[0].startswith("-") or "=" in words[0]:
        raise UserError(f"name the source: {', '.join(LABELLED.list_names())}; usage: {usage}")
    if CHECK in argv:
        from data.sources.labelled.check import check_labels

        named = any(word.startswith("out=") for word in words)
        image = [] if named else [f"out={words[0]}.check.png"]
        people = parse_source(words[0], [*words[1:], *image])
        return check_labels(replace(people, frames=False))
    source = parse_source(words[0], words[1:])
    if source.blur_faces:
        open_blur()  # says what is missing before anything is cut
    _claim_folder(source, words[0])
    before = len(glob.glob(os.path.join(glob.escape(source.out), "*.tar")))
    written, skipped = _write_shards(source)
    there = f"; {before} shards were there already" if before else ""
    what = "frames" if source.frames else "clips"
    print(f"{written} {what} of {source.name} written to {source.out}{there}")
    tell_skipped(skipped)
    if not written and not before and Part.of(source.part).alone:
        raise UserError(
            f"root={source.root}: no labelled person that can be cut; box_min_px="
            f"{source.box_min_px:g} leaves smaller boxes out"
        )
    return 1 if skipped else 0


def parse_source(name: str, words: list[str]) -> LabelledSource:
    """Return the reader of that name with its keys.

    Raises:
        UserError: no such reader, a bad key.
    """
    source, _ = parse_keys(LABELLED.find(name), words, f"{COMMAND} {name}", least=0)
    return replace(source, name=source.name or name)


def _claim_folder(source: LabelledSource, reader: str) -> None:
    """Make the folder, or refuse one that something else made; clear what a killed command left."""
    path = os.path.join(source.out, RECIPE)
    keys = {"reader": reader, **{k: v for k, v in flat(source).items() if k not in NOT_RECIPE}}
    try:
        os.makedirs(source.out, exist_ok=True)
        if os.path.exists(path) and glob.glob(os.path.join(glob.escape(source.out), "*.tar")):
            with open(path, encoding="utf-8") as file:
                before = json.load(file)
            # A key that is newer than the folder had its default.
            before = {field.name: field.default for field in fields(source)} | before
            for name in keys:
                if before.get(name) != keys[name]:
                    raise UserError(
                        f"{name}={keys[name]} here, but the shards in {source.out} were made with "
                        f"{name}={before.get(name)} ({path}); name another folder with out="
                    )
        elif others := [name for name in sorted(os.listdir(source.out)) if _is_foreign(name)]:
            raise UserError(
                f"out={source.out} holds {others[0]}, which this command did not make (there is no "
                f"{RECIPE}); name another folder"
            )
        clear_leftovers(source.out, _list_own(source))
        write_file(path, json.dumps(keys, indent=1))
    except OSError as error:
        raise failure_of(error, f"out={source.out} cannot be written: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _is_foreign(name: str) -> bool:
    """Whether a file in OUT is none of this command, even of a try that wrote no shard."""
    return name != RECIPE and ".writing-" not in name


def _list_own(source: LabelledSource) -> list[str]:
    """Names of the shards whose half-written files are this process's to clear."""
    part = Part.of(source.part)
    if part.alone:
        return ["*"]
    found = [re.match(r"shard-(\d+)", name) for name in os.listdir(source.out)]
    numbers = {int(match[1]) for match in found if match}
    return [shard_name(number) for number in sorted(numbers) if part.has(number)]


def _write_shards(source: LabelledSource) -> tuple[int, list[tuple[str, str]]]:
    """(clips written, people skipped) of the shards that were not there yet."""
    written = 0
    skipped: list[tuple[str, str]] = []
    plan = _Plan(source)
    with progress.bar(None, "frame" if source.frames else "clip", description="cutting") as bar:
        for number, report in spread(cut_shard, plan.list_tasks(), source.workers):
            written += report.written
            skipped += report.skipped
            bar.total = plan.estimate()
            bar.update(plan.lengths[number])
    return written, skipped


class _Plan:
    """The shards of a source, planned as it is read.

    Attributes:
        lengths: clips or frames of each shard that is to be written.
    """

    def __init__(self, source: LabelledSource) -> None:
        self.source = source
        self.lengths: list[int] = []
        self._seen = 0

    def estimate(self) -> int | None:
        """How many samples will have been cut in the end, from how far the reader is."""
        share = self.source.rows.share
        if not share:
            return None
        left = self._seen / share - self._seen
        return sum(self.lengths) + round(left / Part.of(self.source.part).count)

    def list_tasks(self) -> Iterator[ShardTask]:
        """Yield the shards that are to be written."""
        source, mine = self.source, Part.of(self.source.part)
        style = CutStyle.of(source)
        samples = group_people(source) if source.frames else _group_clips(source)
        number = 0
        while shard := list(islice(samples, source.clips_per_shard)):
            path = os.path.join(source.out, shard_name(number))
            self._seen += len(shard)
            if mine.has(number) and not os.path.exists(path):
                self.lengths.append(len(shard))
                yield ShardTask(path, shard, style)
            number += 1


def _group_clips(source: LabelledSource) -> Iterator[list[LabelledImage]]:
    """Yield the images of each clip; people who are too small are left out."""
    seen: set[str] = set()
    for name, group in groupby(source.read(), key=lambda image: image.clip):
        images = []
        for image in group:
            x0, y0, x1, y1 = np.asarray(image.box, np.float64).tolist()
            # A box of NaN is none that is small: who cuts it tells of it.
            if not max(x1 - x0, y1 - y0) < source.box_min_px:
                images.append(image)
        if not images:
            continue
        key = clip_key(name)
        if key in seen:
            raise UserError(f"root={source.root}: two clips are called {key}")
        seen.add(key)
        yield images


def cut_shard(task: ShardTask) -> ShardReport:
    """Cut and write one shard; runs in a process of its own.

    A person that cannot be cut is skipped, and its clip or frame with it if nobody is left.
    """
    skipped: list[tuple[str, str]] = []
    if task.style.frame_px:
        written = _write_frames(task, skipped)
    else:
        written = _write_clips(task, skipped)
    return ShardReport(written, skipped)


def _write_frames(task: ShardTask, skipped: list[tuple[str, str]]) -> int:
    """How many frames were written; who was skipped is added to a list."""
    last = LastImage(open_blur() if task.style.blur_faces else None)
    samples = []
    for people in task.samples:
        try:
            frame, left_out = cut_frame(people, last.read(*people), task.style)
        except ValueError as error:
            skipped.append((image_name(people[0]), str(error)))
            continue
        skipped += [(_name_person(person), reason) for person, reason in left_out]
        samples.append((frame.key, encode_frame(frame)))
    if samples:
        write_samples(task.path, samples)
    return len(samples)


def _write_clips(task: ShardTask, skipped: list[tuple[str, str]]) -> int:
    """How many clips were written; who was skipped is added to a list."""
    last = LastImage(open_blur() if task.style.blur_faces else None)
    clips = []
    for images in task.samples:
        parts = []
        for image in images:
            try:
                parts.append(cut_person(image, last.read(image), task.style))
            except ValueError as error:
                skipped.append((_name_person(image), str(error)))
        if parts:
            clips.append(join_crops(images[0], parts, task.style))
    if clips:
        write_shard(task.path, clips)
    return len(clips)


def _name_person(image: LabelledImage) -> str:
    """The image, and which of its people."""
    name = image_name(image)
    return name if name == image.clip else f"{name} ({image.clip})"


def tell_skipped(skipped: list[tuple[str, str]]) -> None:
    """Say who was left out, one line a reason."""
    reasons: dict[str, list[str]] = {}
    for person, reason in skipped:
        reasons.setdefault(reason, []).append(person)
    for reason, people in list(reasons.items())[:SHOWN]:
        count = "" if len(people) == 1 else f"{len(people)} people, "
        more = ", ..." if len(people) > NAMED else ""
        log.warning("skipped %s%s%s: %s", count, ", ".join(people[:NAMED]), more, reason)
    if len(reasons) > SHOWN:
        rest = sum(len(people) for people in list(reasons.values())[SHOWN:])
        log.warning("skipped %d more people for %d other reasons", rest, len(reasons) - SHOWN)
