"""Crops of real people with found keypoints, told apart by scene, and keypoints of labelled people.

The real ones are clips that ``python -m data pairs`` has cut, with the finder's keypoints and
outlines. Clips may overlap in time, so that one image is in many of them: it counts once. A scene
is a source, what ``source=`` of ``python -m data pairs`` said: takes that share a person, a room or
cameras are cut with one source, and count as one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.format.clip import MASK_BYTES, MASK_SIDE, Clip
from data.format.labels import read_labels
from data.loading.crops import CropReader, Members
from data.loading.points import place_joints
from data.loading.reader import BadSample, NoPair
from data.storage.catalogue import read_catalogue
from data.storage.shard_store import Store
from engine.errors import UserError
from finetune.referee.scores import SURE
from finetune.referee.synthetic import mask_box
from finetune.referee.truth import JUDGED
from pretrain.probe_split import Split, open_reader

CROPS = 200  # of a scene at most, spread over its people, cameras and time
LEAST_CROPS = 10  # of a scene; one with fewer is left out
LEAST_SCENES = 3  # one to judge, one to choose lambda by, one to fit


@dataclass
class PointSplit:
    """n crops whose keypoints are known.

    Attributes:
        crops: where they are; ``clip`` is the number of the scene, its joints and parts say
            nothing.
        points: (n, K, 2) float64 keypoints of JUDGED, in shares of the crop's side.
        known: (n, K) bool, found surely enough.
        side: (n,) longer side of the person's box, as a share of the crop's.
        progress: (n,) from 0 to 1, which of the crops of its person and camera it is in time.
        scenes: names, in the order of their numbers.  clips: that were read.
    """

    crops: Split
    points: np.ndarray
    known: np.ndarray
    side: np.ndarray
    progress: np.ndarray
    scenes: list[str]
    clips: int

    def describe(self) -> dict[str, Any]:
        """Return what a row keeps of them: counts of clips, crops and crops of each scene."""
        counts = np.bincount(self.crops.clip, minlength=len(self.scenes)).tolist()
        return {
            "clips": self.clips,
            "crops": len(self.side),
            "scenes": dict(zip(self.scenes, counts, strict=True)),
        }


def read_real_crops(shards: str, store: Store) -> PointSplit:
    """Return the crops of real clips that are judged: with a keypoint and an outline.

    LEAST_CROPS to CROPS of a scene. Which they are depends on the shards alone.

    Args:
        shards: see data.storage.catalogue.list_shards.
    Raises:
        UserError: there are fewer than LEAST_SCENES scenes of such crops.
    """
    paths, entries = read_catalogue(shards, store)
    reader = open_reader("body", store)
    found: dict[str, dict[tuple, tuple]] = {}
    clips = 0
    for shard, entry in enumerate(entries):
        for index in range(entry.clips):
            try:
                clip, members, points, known = find_points(reader, paths[shard], index)
            except (BadSample, NoPair):
                continue
            clips += 1
            scene = found.setdefault(clip.source, {})
            for number, crop in enumerate(clip.crops):
                side = _measure_box(reader, paths[shard], clip, members, number)
                if crop.kind != "body" or not side or not known[number].any():
                    continue
                moment = clip.subject, clip.track or "", crop.camera, crop.time_s
                place = shard, index, number
                scene.setdefault(moment, (place, points[number], known[number], side))
    kept = {name: _spread(found[name]) for name in sorted(found) if len(found[name]) >= LEAST_CROPS}
    if len(kept) < LEAST_SCENES:
        raise UserError(
            f"real.shards={shards} has {LEAST_CROPS} crops or more with keypoints and an outline "
            f"of {len(kept)} scenes ({', '.join(kept) or 'none'}), and {LEAST_SCENES} scenes are "
            f"the fewest that can be judged: a scene is what source= of python -m data pairs names"
        )
    rows = [one for crops_of_scene in kept.values() for one in crops_of_scene]
    places, points, known, sides, progress = zip(*rows, strict=True)
    scene = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept.values()])
    split = Split(
        store,
        paths,
        scene,
        np.array(places),
        np.zeros((len(scene), 1, 3)),
        np.zeros(len(scene), np.int64),
        max(entry.size for entry in entries),
    )
    return PointSplit(
        split,
        np.array(points),
        np.array(known),
        np.array(sides),
        np.array(progress),
        list(kept),
        clips,
    )


def read_made_points(split: Split) -> np.ndarray:
    """Return (n, K, 2) keypoints of a probe's labelled crops, as PointSplit has them.

    Raises:
        UserError: the labels do not say where one of them is.
    """
    reader, out = open_reader("body", split.store), []
    known: dict[tuple[int, int], tuple] = {}
    for shard, index, crop in split.places.tolist():
        if (shard, index) not in known:
            known = {(shard, index): find_points(reader, split.paths[shard], index)}
        clip, _, points, there = known[shard, index]
        if not there[crop].all():
            missing = [name for name, one in zip(JUDGED, there[crop], strict=True) if not one]
            raise UserError(
                f"{split.paths[shard]}, clip {clip.key}: its labels do not say where "
                f"{', '.join(missing)} of crop {crop} is"
            )
        out.append(points[crop])
    return np.array(out)


def find_points(
    reader: CropReader, path: str, index: int
) -> tuple[Clip, Members, np.ndarray, np.ndarray]:
    """Return (clip, members, (N, K, 2) JUDGED in shares of the side, (N, K) bool known) of a clip.

    Labelled keypoints count where their confidence is SURE at least, as the referee's do.

    Raises:
        NoPair: it has no labels.  BadSample: they cannot be read.
    """
    clip, members = reader.wanted_clip(path, index)
    if "labels.npz" not in members:
        raise NoPair
    try:
        labels = read_labels(reader.store.read(path, *members["labels.npz"]), len(clip.crops))
        if labels.keypoints is not None:
            found = labels.keypoints.confidence
            labels.keypoints.confidence = np.where(found < SURE, 0, found)
        points, state = place_joints(labels, clip, JUDGED)
    except (ValueError, UserError) as error:
        raise BadSample(f"labels.npz: {error}") from None
    return clip, members, points.astype(np.float64) / clip.size, state > 0


def _measure_box(reader: CropReader, path: str, clip: Clip, members: Members, crop: int) -> float:
    """Longer side of the box around a crop's outline, as a share of the crop's; 0 without one."""
    packed = np.zeros(MASK_BYTES, np.uint8)
    reader.mask(packed, path, clip, members, crop)
    mask = np.unpackbits(packed).reshape(MASK_SIDE, MASK_SIDE) > 0
    if mask.all() or not mask.any():  # all ones stand for an outline that nobody knows
        return 0.0
    box = mask_box(mask, 1)
    return float((box[2:] - box[:2]).max())


def _spread(scene: dict[tuple, tuple]) -> list[tuple]:
    """At most CROPS of a scene's crops {moment: crop}, evenly over people, cameras and time.

    Each with its progress, which is among those that are left.
    """
    moments = sorted(scene)
    if len(moments) > CROPS:
        chosen = np.linspace(0, len(moments) - 1, CROPS).round().astype(int)
        moments = [moments[place] for place in chosen]
    shown = [moment[:-1] for moment in moments]
    out = []
    for place, moment in enumerate(moments):
        last = shown.count(shown[place]) - 1
        passed = place - shown.index(shown[place])
        out.append((*scene[moment], passed / max(last, 1)))
    return out
