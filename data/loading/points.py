"""Reading crops whose joints in the image are known, one a slot: pixels, and joints by name.

Joints come from labelled keypoints where a clip has them, else from labelled joints in space and
the crop's camera, both by the names of their joint sets; so photographs with keypoints alone are
read, and synthetic humans beside them. Runs in the loader's workers; imports neither torch nor
webdataset.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data.bodies.anny_layout import OTHER_NAMES
from data.bodies.models import LAYOUTS
from data.format.clip import Clip
from data.format.joint_sets import JOINT_SETS
from data.format.labels import SEEN, Labels, read_labels
from data.loading import crops
from data.loading.crops import CropReader, Members, assume_camera
from data.loading.reader import BadSample, NoPair, Shapes
from data.sampling.pairs import CROPS
from engine.errors import UserError
from engine.geometry import project

# Of "point_state": what is known of a joint. One that lies outside of its crop counts as hidden.
STATE_UNKNOWN, STATE_HIDDEN, STATE_SEEN = range(3)
NEAREST_M = 0.05  # a joint that is nearer to the camera is in no image


def layout(rows: int, side: int, joints: int, draws: int = 0) -> Shapes:
    """{name: (shape, dtype)} of the arrays that one batch of such crops fills.

    ``points``: (rows, joints, 2) float32 pixels of the crop; ``point_state``: (rows, joints) uint8.
    """
    whole = crops.layout(rows, side, draws=draws)
    kept = {name: whole[name] for name in whole if name not in ("pose", "root", "shape", "face")}
    kept.pop("joints")
    kept["points"] = ((rows, joints, 2), np.float32)
    kept["point_state"] = ((rows, joints), np.uint8)
    return kept


class PointReader(CropReader):
    """Reads crops with labelled joints into arrays of layout().

    Attributes:
        names: of the joints that are wanted; set before the first slot is read.
    """

    names: Sequence[str] = ()

    def layout(self, rows: int, side: int, draws: int = 0) -> Shapes:
        """The arrays of a batch; see the module's."""
        return layout(rows, side, len(self.names), draws)

    def wanted(self, kind: object) -> str:
        """What a slot holds, in words."""
        return f"{self.rules.crops} crop with labelled joints"

    def usable(
        self, path: str, index: int
    ) -> tuple[Clip, Members, dict[str, np.ndarray], list[int]]:
        """(Clip, members, {"points", "state"} of its crops, [crop, ...]); see CropReader."""
        clip, members = self.wanted_clip(path, index)
        if "labels.npz" not in members:
            raise NoPair
        count = len(clip.crops)
        try:
            labels = read_labels(self.store.read(path, *members["labels.npz"]), count)
            points, state = place_joints(labels, clip, self.names)
        except (ValueError, UserError) as error:
            raise BadSample(f"labels.npz: {error}") from None
        shown = np.ones(count) if labels.visible is None else labels.visible
        known = [
            i
            for i, crop in enumerate(clip.crops)
            if crop.kind in CROPS[self.rules.crops]
            and state[i].any()
            and shown[i] >= self.rules.visible_min
        ]
        if not known:
            raise NoPair
        return clip, members, {"points": points, "state": state}, known

    def put(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        clip: Clip,
        members: Members,
        labels: Mapping[str, np.ndarray],
        crop: int,
    ) -> None:
        """Decode one crop and its joints into a row; the numbers are left to draw_numbers."""
        self.decode(arrays["pixels"][row], path, clip, members, crop)
        self.mask(arrays["mask"][row], path, clip, members, crop)
        own = clip.crops[crop]
        # Nothing is learnt of a camera that nobody knows.
        arrays["K"][row] = assume_camera(clip.size) if own.K is None else own.K
        arrays["Rt"][row] = np.eye(3, 4) if own.Rt is None else own.Rt
        arrays["points"][row], arrays["point_state"][row] = (
            labels["points"][crop],
            labels["state"][crop],
        )
        self._seen = np.flatnonzero(labels["state"][crop] == STATE_SEEN)

    def find_spot(self, arrays: Mapping[str, np.ndarray], row: int, joint: int) -> np.ndarray:
        """(2,) pixels of the crop where a joint is."""
        return arrays["points"][row, joint]


def place_joints(labels: Labels, clip: Clip, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """((N, K, 2) float32 pixels of the crops, (N, K) uint8 STATE_...) of the joints of that name.

    Raises:
        ValueError, UserError: labels of a joint set that nobody knows.
    """
    count = len(clip.crops)
    points = np.zeros((count, len(names), 2), np.float32)
    state = np.zeros((count, len(names)), np.uint8)
    if labels.joints is not None and labels.frame == "world":
        there = _name_joints(labels.joints.joint_set)
        for n, crop in enumerate(clip.crops):
            if crop.K is None or crop.Rt is None:
                continue
            places = _match_names(there, names, crop.kind)
            row = int(labels.instant[n])
            xy, depth = project(labels.joints.points[row], crop.K, crop.Rt)
            visible = None if labels.joints.visible is None else labels.joints.visible[n]
            known = (labels.joints.confidence[row] > 0) & (depth > NEAREST_M)
            _put(points[n], state[n], places, xy, known, visible)
    if labels.keypoints is not None:
        there = _name_joints(labels.keypoints.joint_set)
        for n in range(count):
            places = _match_names(there, names, clip.crops[n].kind)
            visible = None if labels.keypoints.visible is None else labels.keypoints.visible[n]
            known = labels.keypoints.confidence[n] > 0
            _put(points[n], state[n], places, labels.keypoints.points[n], known, visible)
    return points, state


def _put(
    points: np.ndarray,
    state: np.ndarray,
    places: np.ndarray,
    xy: np.ndarray,
    known: np.ndarray,
    visible: np.ndarray | None,
) -> None:
    """Put the joints of one crop that are known into its rows, in place."""
    there = places >= 0
    there[there] = known[places[there]]
    found = places[there]
    points[there] = xy[found]
    seen = np.full(len(found), SEEN) if visible is None else visible[found]
    state[there] = np.where(seen == SEEN, STATE_SEEN, STATE_HIDDEN)


def _name_joints(joint_set: str) -> tuple[str, ...]:
    """Names of a joint set's joints; of a body model's own, the names that others share."""
    if joint_set in JOINT_SETS:
        return JOINT_SETS[joint_set].joints
    model = LAYOUTS.find(joint_set)
    shared = {joint: name for name, joint in model.keypoints.items()}
    return tuple(shared.get(joint, joint) for joint in model.joint_names)


def _match_names(there: Sequence[str], names: Sequence[str], kind: str) -> np.ndarray:
    """(K,) where each name is, -1 where it is not.

    Args:
        kind: of the crop: a hand's own names, such as "thumb_1", are those of its side of a body.
    """
    places = {name: place for place, name in enumerate(there)}
    found = []
    for name in names:
        of_side = name if kind == "body" else f"{kind}_{name}"
        wanted = (name, OTHER_NAMES.get(name, name), of_side, OTHER_NAMES.get(of_side, name))
        found.append(next((places[one] for one in wanted if one in places), -1))
    return np.array(found, np.int64)
