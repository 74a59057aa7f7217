"""What cameras see of people: the keypoints of clips in shards, sorted by person and instant.

A stretch is one person for as long as nobody lost them: all clips of one track, or one clip that
belongs to none. Clips of a track overlap in time; what they have in common counts once. What a
camera sees whose pose nobody knows is a stretch of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.cropping.geometry import square_of_box
from data.format.clip import Clip, Crop, decode_meta
from data.format.joint_sets import JOINT_SETS
from data.format.labels import Keypoints, Labels, read_labels
from data.format.samples import read_samples
from data.loading.crops import assume_camera
from engine.errors import UserError
from engine.geometry import crop_intrinsics

LABELS = "labels.npz"
SIDES = ("left_hand", "right_hand")
SIZE_FLOOR = 0.25  # of the crop's side: a person of three keypoints is no smaller than that
CROP_DIGITS = 6  # of seconds, by which instants are told apart

Place = tuple[str, str, int]  # shard, clip's key, number of the crop
Sample = tuple[str, str, dict[str, bytes]]  # shard, clip's key, its members


@dataclass(eq=False)
class View:
    """One image of a person.

    Attributes:
        camera: its name.  time_s: when.
        K: (3, 3) of the crop.  Rt: (3, 4) world to camera.
        points: (P, 2) pixels of the crop.  weights: (P,) confidence, 0: not seen.
        size_px: of the person in the crop.
        places: the crops that show it; several clips may have the same.
    """

    camera: str
    time_s: float
    K: np.ndarray
    Rt: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    size_px: float
    places: list[Place]


@dataclass(eq=False)
class Stretch:
    """One person over a time.

    Attributes:
        name: of the track, or of the clip.
        kind: out of data.format.clip.KINDS.  joint_set: of the keypoints.
        views: by instant and camera.
    """

    name: str
    kind: str
    joint_set: str
    views: list[View] = field(default_factory=list)

    @property
    def times_s(self) -> list[float]:
        """The T instants, in order."""
        return sorted({round(view.time_s, CROP_DIGITS) for view in self.views})

    @property
    def shards(self) -> set[str]:
        """Where its crops are."""
        return {place[0] for view in self.views for place in view.places}


@dataclass
class Rules:
    """Which views of clips are read; see FitConfig.

    Attributes:
        kind: "body" or "hand".
        intrinsics: (3, 3) of the images of uncalibrated crops, or None.
        assumes_cameras: of crops that have none, as training does: then each is a stretch of its
            own.
    """

    kind: str
    confidence_min: float
    min_points: int
    intrinsics: np.ndarray | None = None
    assumes_cameras: bool = False


@dataclass
class Counts:
    """What was passed over when shards were read.

    Attributes:
        others: crops of another kind.  few: crops with too few keypoints.
    """

    others: int = 0
    few: int = 0


def read_shards(shards: Sequence[str]) -> Iterator[Sample]:
    """Yield the clips of shards."""
    for path in shards:
        for key, members in read_samples(path):
            yield path, key, members


def read_stretches(samples: Iterable[Sample], rules: Rules) -> tuple[list[Stretch], Counts]:
    """Return the Stretches of clips, in the order of their first crops.

    Raises:
        UserError: no crop has keypoints, or a clip's cannot be read; a crop has no camera and
            nobody says which.
    """
    stretches: dict[tuple[str, str, str, str], Stretch] = {}
    known: dict[tuple[str, str, str, str, float, tuple], View] = {}
    counts = Counts()
    crops, shards = 0, []
    for path, key, members in samples:
        if path not in shards:
            shards.append(path)
        where = f"{path}:{key}"
        clip = _read_clip(members["json"], where)
        labels = _read_labels(members.get(LABELS), clip, where)
        for number, crop in enumerate(clip.crops):
            crops += 1
            if (crop.kind == "body") != (rules.kind == "body"):
                counts.others += 1
                continue
            points = None if labels is None else labels.at(number).keypoints
            if points is None or _count_sure(points, rules) < rules.min_points:
                counts.few += 1
                continue
            place = path, key, number
            found = _make_view(clip, crop, points, rules, place)
            name = clip.track if clip.track is not None else where
            if crop.K is None and rules.assumes_cameras:
                name = f"{where}:{number}"  # in the axes of a camera of its own
            # How cameras stand to each other nobody knows whose poses nobody does.
            alone = crop.camera if crop.Rt is None else ""
            group = name, crop.kind, points.joint_set, alone
            stretch = stretches.setdefault(group, Stretch(*group[:3]))
            same = (*group, found.time_s, _tell_camera(crop))
            if clip.track is not None and same in known:
                known[same].places.append(place)
            else:
                known[same] = found
                stretch.views.append(found)
    if not stretches:
        raise UserError(
            f"{_name_shards(shards)}: of {crops} crops none of a {rules.kind} has "
            f"{rules.min_points} keypoints of confidence {rules.confidence_min:g} or more "
            "(fit.min_points, fit.confidence_min): data pairs stores those that it finds, and "
            "body= says whom is fitted"
        )
    return list(stretches.values()), counts


def freeze_people(stretches: Sequence[Stretch]) -> None:
    """Have all views of a person who holds still be of one instant, where cameras' poses are known.

    A single camera that always stands at the origin of its world is one whose poses nobody knows:
    there the instants stay, for in its axes the person is elsewhere in each.
    """
    for stretch in stretches:
        poses = np.stack([view.Rt for view in stretch.views])
        if np.abs(poses - np.eye(3, 4)).max() > 0:
            first = min(view.time_s for view in stretch.views)
            for view in stretch.views:
                view.time_s = first


def _name_shards(shards: Sequence[str]) -> str:
    """The first of them and how many there are."""
    more = f" and {len(shards) - 1} others" if len(shards) > 1 else ""
    return f"{shards[0] if shards else 'no shards'}{more}"


def _read_clip(data: bytes, where: str) -> Clip:
    try:
        return decode_meta(data, where)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _read_labels(data: bytes | None, clip: Clip, where: str) -> Labels | None:
    if data is None:
        return None
    try:
        return read_labels(data, len(clip.crops))
    except ValueError as error:
        raise UserError(f"{where}: labels.npz: {error}") from None


def _count_sure(points: Keypoints, rules: Rules) -> int:
    if points.joint_set not in JOINT_SETS:
        return 0
    return int((points.confidence >= rules.confidence_min).sum())


def _tell_camera(crop: Crop) -> tuple:
    """What two crops of one image have in common: the camera, and where in its image they are."""
    box = () if crop.box is None else tuple(np.round(crop.box, 1).tolist())
    return crop.camera, box


def _make_view(clip: Clip, crop: Crop, points: Keypoints, rules: Rules, place: Place) -> View:
    weights = np.where(points.confidence >= rules.confidence_min, points.confidence, 0.0)
    sure = points.points[weights > 0]
    size = float(np.ptp(sure, 0).max()) if len(sure) else 0.0
    K, Rt = _find_camera(clip, crop, rules, place)
    return View(
        crop.camera,
        round(float(crop.time_s), CROP_DIGITS),
        K,
        Rt,
        points.points.astype(np.float64),
        weights.astype(np.float64),
        max(size, SIZE_FLOOR * clip.size),
        [place],
    )


def _find_camera(
    clip: Clip, crop: Crop, rules: Rules, place: Place
) -> tuple[np.ndarray, np.ndarray]:
    """(K, Rt) of a crop; of an uncalibrated one its image's camera stands for the world."""
    if crop.K is not None:
        Rt = np.eye(3, 4) if crop.Rt is None else np.asarray(crop.Rt, np.float64)
        return np.asarray(crop.K, np.float64), Rt
    if rules.assumes_cameras:
        return assume_camera(clip.size), np.eye(3, 4)
    if rules.intrinsics is None or crop.box is None:
        raise UserError(
            f"{place[0]}:{place[1]}: crop {place[2]} has no camera (K is null): "
            "intrinsics=fx,fy,cx,cy says that of the images it was cut from"
        )
    box = square_of_box(np.asarray(crop.box)).box
    return crop_intrinsics(rules.intrinsics, box, (clip.size, clip.size)), np.eye(3, 4)
