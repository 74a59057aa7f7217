"""Reading labelled crops, one a slot.

Pixels, camera, body parameters, and the numbers that augmentation needs.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.bodies.models import LAYOUTS, LabelChoice
from data.format.clip import KINDS, MASK_BYTES, Clip
from data.format.labels import SEEN
from data.loading import reader
from data.loading.appearance_keys import AppearanceKeys
from data.loading.crop_labels import ANNY, find_label_kind
from data.loading.reader import NoPair, ShardReader
from data.sampling.order import Draw
from data.sampling.pairs import CROPS
from engine.config.parser import key
from engine.errors import UserError

TAGS = (*reader.TAGS[:7], "crop", "part", "size")  # part: index into data.format.clip.KINDS
# Columns of "numbers": crop centre x, y and side in pixels of the decoded image; rotation in
# radians; whether it is mirrored; three colour factors.
CENTRE_X, CENTRE_Y, SIDE, ROTATION, FLIP = range(5)
PER_CROP = 8

Members = dict[str, tuple[int, int]]  # name: where its bytes are, (start, length)


@dataclass
class CropRules:
    """Selects the labelled crops that are learnt from."""

    crops: str = key("body", "which crops are learnt from", choices=("body", "hand"))
    visible_min: float = key(
        0.1, "least share of the body's or the hand's surface that a crop shows", low=0, high=1
    )
    labels: str = key(
        "parameters",
        "what a crop is learnt from by: the body model's parameters, or any labels that say where "
        "keypoints are; what a crop lacks is left out of its losses",
        choices=("parameters", "any"),
    )


@dataclass
class CropAugmentConfig(AppearanceKeys):
    """Sets how labelled crops are cut, rotated, mirrored and changed in training."""

    scale_min: float = key(
        0.85, "smallest side of the square that is cut out, as a share of the crop", low=0.1, high=2
    )
    scale_max: float = key(
        1.1, "largest side of it; what lies outside of the crop is black", low=0.1, high=2
    )
    shift: float = key(
        0.06, "largest shift of its centre either way, as a share of the crop", low=0, high=0.5
    )
    rotation_deg: float = key(
        15.0,
        "largest rotation of the image either way; the camera rotates with it",
        low=0,
        high=180,
        renamed_from="turn_deg",
    )
    flip: bool = key(
        True,
        "mirror half of the images of bodies, left and right swapped (hands: a left hand always "
        "is)",
    )
    part_share: float = key(
        0.0, "share of crops that show a part only, around a joint that is seen", low=0, high=1
    )
    part_min: float = key(
        0.35, "smallest side of such a part, as a share of the crop", low=0.1, high=1
    )
    colour: float = key(
        0.4,
        "brightness, contrast, saturation are multiplied by 1 - colour to 1 + colour",
        low=0,
        high=1,
    )

    def check(self) -> None:
        """Raise UserError where scale_min is above scale_max; see BackgroundKeys.check."""
        super().check()
        if self.scale_min > self.scale_max:
            raise UserError(
                f"data.augment.scale_min={self.scale_min} is above "
                f"data.augment.scale_max={self.scale_max}"
            )


def layout(
    rows: int, side: int, model: str = ANNY, draws: int = 0
) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, dtype)} of the arrays that one batch of labelled crops fills.

    ``pose``, ``root``, ``shape``, ``face``, ``joints`` are the labels at the crop's instant;
    labels of some body models have more (data.loading.crop_labels).

    Args:
        model: the body model whose labels are read.
        draws: uniform numbers in ``look``, which is left out where it is 0.
    """
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        "pixels": ((rows, side, side, 3), np.uint8),
        "mask": ((rows, MASK_BYTES), np.uint8),
        "numbers": ((rows, PER_CROP), np.float32),
        "K": ((rows, 3, 3), np.float32),
        "Rt": ((rows, 3, 4), np.float32),
    }
    for name, shape in find_label_kind(model).shapes.items():
        arrays[name] = (rows, *shape), np.float32
    arrays["tags"] = (rows, len(TAGS)), np.int32
    if draws:
        arrays["look"] = ((rows, draws), np.float32)
    return arrays


class CropReader(ShardReader):
    """Reads labelled crops into arrays of layout().

    ``rules``: CropRules. ``augment``: CropAugmentConfig.

    Attributes:
        choice: which labels are read.
    """

    choice = LabelChoice()

    def layout(self, rows: int, side: int, draws: int = 0) -> reader.Shapes:
        """The arrays of a batch; see the module's."""
        return layout(rows, side, self.choice.model, draws)

    def wanted(self, kind: object) -> str:
        """Return what a slot holds, in words: a labelled crop of a body or a hand."""
        return f"labelled {self.rules.crops} crop"

    def usable(
        self, path: str, index: int
    ) -> tuple[Clip, Members, dict[str, np.ndarray], list[int]]:
        """(Clip, members, labels, [crop, ...]) of a sample that can be learnt from.

        NoPair or BadSample if it cannot.
        """
        clip, members = self.wanted_clip(path, index)
        if "labels.npz" not in members:
            raise NoPair
        labels = self.labels(path, members, len(clip.crops))
        known = [
            i
            for i, crop in enumerate(clip.crops)
            if crop.kind in CROPS[self.rules.crops]
            and crop.K is not None
            and crop.Rt is not None
            and labels["visible"][i] >= self.rules.visible_min
            and ("known" not in labels or labels["known"][i])
        ]
        if not known:
            raise NoPair
        return clip, members, labels, known

    def labels(self, path: str, members: Members, count: int) -> dict[str, np.ndarray]:
        """{name: array} of a clip's labels, checked."""
        data = self.store.read(path, *members["labels.npz"])
        return find_label_kind(self.choice.model).read(data, count, self.choice.variant)

    def place(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        draw: Draw,
        random: np.random.Generator,
    ) -> tuple[int, int, int]:
        """Decode a usable crop of a clip into a row and return (crop, its kind, side in pixels).

        The kind is its index in KINDS.
        """
        clip, members, labels, known = self.usable(path, draw.index)
        crop = known[int(random.integers(len(known)))]
        self.put(arrays, row, path, clip, members, labels, crop)
        return crop, KINDS.index(clip.crops[crop].kind), clip.size

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
        """Decode one crop and its labels into a row; the numbers are left to draw_numbers."""
        self.decode(arrays["pixels"][row], path, clip, members, crop)
        self.mask(arrays["mask"][row], path, clip, members, crop)
        self.put_labels(arrays, row, clip, labels, crop)
        # Joints that are seen, for part crops: kept for draw_numbers, which follows for the same
        # row.
        seen = np.flatnonzero(labels["joint_visible"][crop] == SEEN)
        kind = clip.crops[crop].kind
        if kind != "body":
            layout = LAYOUTS.find(str(labels["body_model"].ravel()[0]))
            seen = seen[np.isin(seen, layout.index_part(kind))]
        self._seen = seen

    def put_labels(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        clip: Clip,
        labels: Mapping[str, np.ndarray],
        crop: int,
    ) -> None:
        """The camera and the body of one crop into a row."""
        instant = int(labels["instant"][crop])
        arrays["K"][row], arrays["Rt"][row] = clip.crops[crop].K, clip.crops[crop].Rt
        kind = find_label_kind(self.choice.model)
        for name in kind.shapes:
            is_of_instant = name in kind.per_instant
            arrays[name][row] = labels[name][instant] if is_of_instant else labels[name]

    def draw_numbers(
        self, arrays: Mapping[str, np.ndarray], row: int, random: np.random.Generator
    ) -> None:
        """Crop, rotate, mirror and colour; see PER_CROP.

        ``random`` has drawn the crop, and a slot draws 11 numbers more; then come those of its
        look, where it has one.
        """
        augment, out = self.augment, arrays["numbers"][row]
        tags = dict(zip(TAGS, arrays["tags"][row].tolist(), strict=True))
        size, u = tags["size"], random.random(7)
        side = size * (augment.scale_min + (augment.scale_max - augment.scale_min) * u[0])
        centre = size * (0.5 + augment.shift * (2 * u[1:3] - 1))
        if u[3] < augment.part_share and len(self._seen):
            joint = self._seen[int(u[4] * len(self._seen))]
            side = size * (augment.part_min + max(0.0, augment.scale_min - augment.part_min) * u[5])
            spot = self.find_spot(arrays, row, joint)
            centre = np.clip(spot, min(side, size) / 2, size - min(side, size) / 2)
        out[[CENTRE_X, CENTRE_Y]], out[SIDE] = centre, side
        out[ROTATION] = np.radians(augment.rotation_deg) * (2 * random.random() - 1)
        part = KINDS[tags["part"]]
        out[FLIP] = part == "left_hand" if part != "body" else augment.flip and u[6] < 0.5
        out[5:] = 1 + augment.colour * (2 * random.random(3) - 1)
        if augment.draws:
            arrays["look"][row] = random.random(augment.draws, np.float32)

    def find_spot(self, arrays: Mapping[str, np.ndarray], row: int, joint: int) -> np.ndarray:
        """(2,) pixels of the crop where a joint is."""
        camera = arrays["Rt"][row][:, :3] @ arrays["joints"][row, joint] + arrays["Rt"][row][:, 3]
        return (arrays["K"][row] @ camera)[:2] / camera[2]

    @staticmethod
    def whole(arrays: Mapping[str, np.ndarray], row: int) -> None:
        """The numbers of a crop as it is, in place of draw_numbers.

        A left hand is still mirrored.
        """
        tags = dict(zip(TAGS, arrays["tags"][row].tolist(), strict=True))
        size = tags["size"]
        arrays["numbers"][row] = [
            size / 2,
            size / 2,
            size,
            0,
            KINDS[tags["part"]] == "left_hand",
            1,
            1,
            1,
        ]


def assume_camera(size: int) -> np.ndarray:
    """Returns the (3, 3) intrinsics of a crop whose camera nobody knows.

    As prediction assumes them of an image: the focal length is the diagonal, the middle the centre.
    """
    focal = float(np.hypot(size, size))
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
