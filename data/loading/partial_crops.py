"""Reading crops that are labelled in part: by keypoints, by joints, or by a body model.

Photographs with 2D keypoints, recordings with joints in metres and synthetic humans with a body's
parameters fill rows of one batch. Beside what data.loading.crops has, a row says which parts it
holds, and holds the keypoints of the run's body model wherever labels of any joint set have some of
their names. What a crop lacks is zero there, or a body at rest before the camera, and a loss leaves
it out.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from data.bodies.models import LAYOUTS
from data.format.clip import KINDS, Clip
from data.format.joint_sets import JOINT_SETS, find_joint_set
from data.format.label_files import load_arrays
from data.format.labels import CropLabels, Joints, Keypoints, read_arrays
from data.loading import crops
from data.loading.crop_labels import ANNY, find_label_kind
from data.loading.crops import CropReader, Members, assume_camera
from data.loading.reader import BadSample, NoPair, Shapes
from data.sampling.order import Draw
from data.sampling.pairs import CROPS

PARTS = ("mesh", "joints", "keypoints")  # columns of "present"
MESH, JOINTS, KEYPOINTS = range(3)
AWAY_M = 5.0  # how far before its camera a body stands that nobody labelled: no loss reads it
SIDES = ("left_", "right_")


def layout(rows: int, side: int, keypoints: int, model: str = ANNY, draws: int = 0) -> Shapes:
    """{name: (shape, dtype)} of the arrays of a batch: those of data.loading.crops and three more.

    ``present`` (rows, 3): which of PARTS are labelled. ``points_2d`` (rows, K, 3): the keypoints in
    pixels of the decoded crop and their confidence. ``points_3d`` (rows, K, 4): in the axes of the
    crop's camera, metres, and their confidence; where they are as a whole may not be known. Both
    are filled where there is no mesh alone.
    """
    return crops.layout(rows, side, model, draws) | {
        "present": ((rows, len(PARTS)), np.uint8),
        "points_2d": ((rows, keypoints, 3), np.float32),
        "points_3d": ((rows, keypoints, 4), np.float32),
    }


class PartialCropReader(CropReader):
    """Reads crops of clips with any labels into arrays of ``layout``.

    Attributes:
        keypoint_names: of the run's body model, the root first; to be set before it reads.
    """

    keypoint_names: Sequence[str] = ()

    def place(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        draw: Draw,
        random: np.random.Generator,
    ) -> tuple[int, int, int]:
        """Decode a crop of a clip into a row; see CropReader."""
        clip, members = self.wanted_clip(path, draw.index)
        if "labels.npz" not in members:
            raise NoPair
        found = None
        if self._has_mesh(path, members):
            found = self._place_mesh(arrays, row, path, draw, random)
        if found is not None:
            for name in ("points_2d", "points_3d"):
                arrays[name][row] = 0
            arrays["present"][row] = [part == "mesh" for part in PARTS]
            return found
        known = self._list_labelled(path, clip, members)
        if not known:
            raise NoPair
        crop, labels = known[int(random.integers(len(known)))]
        self.decode(arrays["pixels"][row], path, clip, members, crop)
        self.mask(arrays["mask"][row], path, clip, members, crop)
        self._put_points(arrays, row, clip, labels, crop)
        self._seen = np.zeros(0, np.int64)  # no part crops around what may not be labelled
        return crop, KINDS.index(clip.crops[crop].kind), clip.size

    def _place_mesh(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        draw: Draw,
        random: np.random.Generator,
    ) -> tuple[int, int, int] | None:
        """As CropReader.place; None of a clip whose parameters cannot be learnt."""
        try:
            return super().place(arrays, row, path, draw, random)
        except NoPair:
            return None

    def _has_mesh(self, path: str, members: Members) -> bool:
        """Whether a clip's labels have a body model's parameters that the run can learn."""
        try:
            data = self.store.read(path, *members["labels.npz"])
            model = load_arrays(data, ["body_model"])["body_model"]
        except KeyError:
            return False
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None
        return model.size == 1 and str(model.ravel()[0]) == self.choice.model

    def _list_labelled(
        self, path: str, clip: Clip, members: Members
    ) -> list[tuple[int, CropLabels]]:
        """[(crop, its labels), ...] of those in which a keypoint of the body model is labelled."""
        try:
            data = self.store.read(path, *members["labels.npz"])
            labels = read_arrays(load_arrays(data), len(clip.crops))
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None
        found = []
        for number, crop in enumerate(clip.crops):
            one = labels.at(number)
            hidden = one.visible is not None and one.visible < self.rules.visible_min
            if crop.kind not in CROPS[self.rules.crops] or hidden:
                continue
            if any(self._match(points, crop.kind).any() for points in (one.keypoints, one.joints)):
                found.append((number, one))
        return found

    def _match(self, points: Keypoints | Joints | None, kind: str) -> np.ndarray:
        """(K, D + 1) of the body model's keypoints: where they are and how surely, 0 if unknown."""
        if points is None:
            return np.zeros((len(self.keypoint_names), 1), np.float32)
        names = list_point_names(points.joint_set, kind)
        width = points.points.shape[1]
        out = np.zeros((len(self.keypoint_names), width + 1), np.float32)
        for number, name in enumerate(self.keypoint_names):
            place = names.get(name, len(points.points))
            if place < len(points.points) and points.confidence[place] > 0:
                out[number, :width] = points.points[place]
                out[number, width] = points.confidence[place]
        return out

    def _put_points(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        clip: Clip,
        labels: CropLabels,
        crop: int,
    ) -> None:
        """The camera and labels of one crop into a row, with a body that no loss reads."""
        one = clip.crops[crop]
        K = assume_camera(clip.size) if one.K is None else np.asarray(one.K)
        Rt = np.eye(3, 4) if one.Rt is None else np.asarray(one.Rt)
        arrays["K"][row], arrays["Rt"][row] = K, Rt
        for name in find_label_kind(self.choice.model).shapes:
            arrays[name][row] = 0
        arrays["root"][row] = Rt[:, :3].T @ (np.array([0, 0, AWAY_M]) - Rt[:, 3])
        arrays["points_2d"][row] = self._match(labels.keypoints, one.kind)
        arrays["points_3d"][row] = 0
        if labels.joints is not None:
            points = self._match(labels.joints, one.kind)
            if labels.frame == "world":
                points[:, :3] = points[:, :3] @ Rt[:, :3].T + Rt[:, 3]
            points[points[:, 3] == 0] = 0
            arrays["points_3d"][row] = points
        arrays["present"][row] = [
            False,
            arrays["points_3d"][row, :, 3].any(),
            arrays["points_2d"][row, :, 2].any(),
        ]


def list_point_names(joint_set: str, kind: str) -> dict[str, int]:
    """Returns {name: place} of a joint set's points, as a body model calls its keypoints.

    Of a hand's crop those of that hand alone, without its side, and those of sets of one hand. A
    set that is not registered may be a body model's own joints; of another one nothing is known.
    """
    if joint_set in JOINT_SETS:
        names = {name: place for place, name in enumerate(find_joint_set(joint_set).joints)}
    elif joint_set.isidentifier() and find_spec(f"data.bodies.{joint_set}"):
        own = LAYOUTS.find(joint_set)
        names = dict(zip(own.keypoints, own.index_keypoints(), strict=True))
    else:
        return {}
    if kind == "body":
        return names
    side = f"{kind.split('_')[0]}_"
    mine = {
        name.removeprefix(side).removeprefix("hand_"): place
        for name, place in names.items()
        if name.startswith(side)
    }
    sideless = {name: place for name, place in names.items() if not name.startswith(SIDES)}
    return mine or sideless
