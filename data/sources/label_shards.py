"""``python -m data labels NAME``: crops of a labelled dataset's people, written into shards.

The people are read in their order and a shard is made by one process, so its bytes depend on the
data set and the keys alone. A shard that has its name is whole: a killed command resumes with
those that are missing.
"""

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice

import cv2
import numpy as np
import simplejpeg

from data.cropping.geometry import Square, square_around
from data.cropping.host import cut_square
from data.format.clip import MASK_SIDE, Clip, Crop
from data.format.images import decode_image
from data.format.label_stack import stack_labels
from data.format.labels import CropLabels
from data.format.shards import shard_name, write_shard
from data.sources.cameras import Camera
from data.sources.crop_parts import move_keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.plan import clip_key
from data.tools.cleanup import clear_leftovers
from data.tools.process_pool import spread
from engine.config.parser import flat, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.geometry import crop_intrinsics
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import write_file

COMMAND = "data labels"
RECIPE = "labels.json"
NOT_RECIPE = ("out", "workers", "source")
SHOWN = 20  # images that are skipped whose reasons are shown

log = get_logger(__name__)


@dataclass
class ShardTask:
    """A shard to write: its path, and for each clip the images that become its crops."""

    path: str
    clips: list[list[LabelledImage]]
    source: LabelledSource


@dataclass
class ShardReport:
    """What became of a ShardTask.

    Attributes:
        clips: how many were written.  skipped: [(image, reason), ...].
    """

    clips: int
    skipped: list[tuple[str, str]]


def main(argv: list[str]) -> int:
    """Write what is missing of OUT; returns the exit code, 1 where an image was skipped.

    Raises:
        UserError: no such source, a bad key, a folder of something else, labels that make no sense.
    """
    usage = f"python -m {COMMAND} NAME out=DIR source=DIR [key=value ...]"
    if not argv or argv[0].startswith("-") or "=" in argv[0]:
        raise UserError(f"name the source: {', '.join(LABELLED.list_names())}; usage: {usage}")
    name, rest = argv[0], argv[1:]
    schema = LABELLED.find(name)
    source, _ = parse_keys(schema, rest, f"{COMMAND} {name}", least=0)
    source = replace(source, name=source.name or name)
    _claim_folder(source, name)
    before = len(glob.glob(os.path.join(glob.escape(source.out), "*.tar")))
    written, skipped = _write_shards(source)
    there = f"; {before} shards were there already" if before else ""
    print(f"{written} clips of {source.name} written to {source.out}{there}")
    for image, reason in skipped[:SHOWN]:
        log.warning("skipped %s: %s", image, reason)
    if len(skipped) > SHOWN:
        log.warning("skipped %d more images", len(skipped) - SHOWN)
    if not written and not before:
        raise UserError(f"source={source.source}: no labelled person that can be cut")
    return 1 if skipped else 0


def _claim_folder(source: LabelledSource, reader: str) -> None:
    """Make the folder, or refuse one that something else made; clear what a killed command left."""
    path = os.path.join(source.out, RECIPE)
    keys = {"reader": reader, **{k: v for k, v in flat(source).items() if k not in NOT_RECIPE}}
    try:
        os.makedirs(source.out, exist_ok=True)
        if os.path.exists(path) and glob.glob(os.path.join(glob.escape(source.out), "*.tar")):
            with open(path, encoding="utf-8") as file:
                before = json.load(file)
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
        clear_leftovers(source.out)
        write_file(path, json.dumps(keys, indent=1))
    except OSError as error:
        raise failure_of(error, f"out={source.out} cannot be written: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _is_foreign(name: str) -> bool:
    """Whether a file in OUT is none of this command, even of a try that wrote no shard."""
    return name != RECIPE and ".writing-" not in name


def _write_shards(source: LabelledSource) -> tuple[int, list[tuple[str, str]]]:
    """(clips written, images skipped) of the shards that were not there yet."""
    written = 0
    skipped: list[tuple[str, str]] = []
    with progress.bar(None, "clip", description="cutting") as bar:
        for _, report in spread(cut_shard, _plan_shards(source), source.workers):
            written += report.clips
            skipped += report.skipped
            bar.update(report.clips)
    return written, skipped


def _plan_shards(source: LabelledSource) -> Iterator[ShardTask]:
    """Yield the shards that are to be written, as the data set is read."""
    clips = _group_clips(source)
    number = 0
    while part := list(islice(clips, source.clips_per_shard)):
        path = os.path.join(source.out, shard_name(number))
        number += 1
        if not os.path.exists(path):
            yield ShardTask(path, part, source)


def _group_clips(source: LabelledSource) -> Iterator[list[LabelledImage]]:
    """Yield the images of each clip; people who are too small are left out."""
    seen: set[str] = set()
    for name, group in groupby(source.read(), key=lambda image: image.clip):
        images = []
        for image in group:
            x0, y0, x1, y1 = np.asarray(image.box, np.float64).tolist()
            if max(x1 - x0, y1 - y0) >= source.box_min_px:
                images.append(image)
        if not images:
            continue
        key = clip_key(name)
        if key in seen:
            raise UserError(f"source={source.source}: two clips are called {key}")
        seen.add(key)
        yield images


def cut_shard(task: ShardTask) -> ShardReport:
    """Cut and write one shard; runs in a process of its own.

    An image that cannot be read is skipped, and its clip with it if no image is left.
    """
    skipped: list[tuple[str, str]] = []
    last = _LastImage()
    clips = []
    for images in task.clips:
        parts = []
        for image in images:
            try:
                parts.append(cut_person(image, last.read(image), task.source))
            except ValueError as error:
                skipped.append((image_name(image), str(error)))
        if parts:
            clips.append(_join_crops(images[0], parts, task.source))
    if clips:
        write_shard(task.path, clips)
    return ShardReport(len(clips), skipped)


class _LastImage:
    """Decodes images; the last one is kept, for several people may be in it."""

    def __init__(self) -> None:
        self.source: str | bytes | None = None
        self.pixels = np.zeros((0, 0, 3), np.uint8)

    def read(self, image: LabelledImage) -> np.ndarray:
        """(H, W, 3) uint8; ValueError where it cannot be read or has another size."""
        if image.image != self.source:
            data = image.image
            if isinstance(data, str):
                try:
                    with open(data, "rb") as file:
                        data = file.read()
                except OSError as error:
                    raise ValueError(explain(error)) from None
            self.pixels, self.source = decode_image(data), image.image
        height, width = self.pixels.shape[:2]
        if image.size is not None and (width, height) != tuple(image.size):
            raise ValueError(
                f"it is {width} x {height}, its labels are for {image.size[0]} x {image.size[1]}"
            )
        return self.pixels


@dataclass
class CutPerson:
    """One crop with what belongs to it: its JPEG, labels in its own pixels and perhaps a mask."""

    crop: Crop
    jpeg: bytes
    labels: CropLabels
    mask: np.ndarray | None


def cut_person(image: LabelledImage, pixels: np.ndarray, source: LabelledSource) -> CutPerson:
    """The square around a person, and the labels in its pixels.

    Args:
        pixels: (H, W, 3) uint8 of the whole image.
    """
    square = square_around(image.box, source.margin)
    box = square.box
    camera = _camera_of(image, pixels)
    crop = cut_square(pixels, square, source.size, camera)
    jpeg = simplejpeg.encode_jpeg(
        crop, quality=source.quality, colorspace="RGB", colorsubsampling="420"
    )
    K = Rt = None
    if image.K is not None:
        K = crop_intrinsics(image.K, box, (source.size, source.size))
        Rt = np.eye(3, 4) if image.Rt is None else image.Rt
    name = image_name(image)
    meta = Crop(image.camera, image.time_s, image.kind, K, Rt, box, name)
    labels = replace(image.labels)
    if labels.keypoints is not None:
        labels.keypoints = move_keypoints(labels.keypoints, square, source.size, camera)
    return CutPerson(meta, jpeg, labels, _cut_mask(image, pixels, square, camera))


def image_name(image: LabelledImage) -> str:
    """What the data set calls an image."""
    if image.name is not None:
        return image.name
    return os.path.basename(image.image) if isinstance(image.image, str) else image.clip


def _camera_of(image: LabelledImage, pixels: np.ndarray) -> Camera | None:
    """The lens of an image; None where it has none to be undone."""
    if image.K is None or image.distortion is None or not np.any(image.distortion):
        return None
    height, width = pixels.shape[:2]
    Rt = np.eye(3, 4) if image.Rt is None else np.asarray(image.Rt)
    lens = np.asarray(image.distortion, np.float64)
    return Camera(image.camera, np.asarray(image.K, np.float64), lens, Rt, width, height)


def _cut_mask(
    image: LabelledImage, pixels: np.ndarray, square: Square, camera: Camera | None
) -> np.ndarray | None:
    """(64, 64) bool of the crop, true where at least half of a cell is the person."""
    if image.mask is None:
        return None
    whole = np.zeros(pixels.shape[:2], np.uint8)
    if isinstance(image.mask, list):
        # OpenCV counts pixels from the first one's centre, in 1/256 of a pixel.
        outlines = [np.round((polygon - 0.5) * 256).astype(np.int32) for polygon in image.mask]
        for outline in outlines:
            cv2.fillPoly(whole, [outline], 255, shift=8)
    else:
        whole[np.asarray(image.mask, bool)] = 255
    share = cut_square(np.repeat(whole[..., None], 3, 2), square, MASK_SIDE, camera)
    return share[..., 0] >= 128


def _join_crops(first: LabelledImage, parts: list[CutPerson], source: LabelledSource) -> Clip:
    """The clip of several crops; UserError where their labels do not go together."""
    masks = None
    if any(part.mask is not None for part in parts):
        # Where nobody knows, every cell counts as the person.
        whole = np.ones((MASK_SIDE, MASK_SIDE), bool)
        masks = np.stack([whole if part.mask is None else part.mask for part in parts])
    try:
        labels = stack_labels([part.labels for part in parts])
    except ValueError as error:
        raise UserError(f"clip {first.clip}: {error}") from None
    return Clip(
        clip_key(first.clip),
        source.name,
        first.licence or source.licence or "unknown",
        f"{source.name}/{first.subject}",
        source.size,
        [part.crop for part in parts],
        [part.jpeg for part in parts],
        masks,
        labels=labels,
        split=first.split,
        track=None if first.track is None else f"{source.name}/{first.track}",
    )
