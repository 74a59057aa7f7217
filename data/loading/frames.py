"""Reading whole frames and everybody in them, one a slot, for a batch of one aspect.

    pixels           (rows, S, S, 3) uint8, each frame in the top left corner, the rest black
    size             (rows, 2) float32 width and height of the frame in them
    numbers          (rows, 8) float32: centre x, y and side of the square whose middle is cut out,
                     in pixels of the frame; rotation in radians; 1 where it is mirrored; three
                     colour factors
    K, Rt            (rows, 3, 3), (rows, 3, 4) float32; camera_known (rows,) uint8
    present          (rows, M) uint8: 1 where there is a person, in the first places; all arrays
                     of people are 0 elsewhere
    shown            (rows, M) float32 share of the person that the *cut* shows; where nobody knows
                     what the frame shows, the share of the person's pixels, or box, in the cut
    box              (rows, M, 4) float32 pixels of the frame; NaN: not known
    track            (rows, M) int32, equal numbers in one scene are one person
    pose, root, joints  (rows, M, 104, 3), (rows, M, 3), (rows, M, 104, 3) float32 of anny, in the
                     axes of the frame's camera, metres; shape (rows, M, 6), face (rows, M, 52)
    body_known       (rows, M) uint8: whether those are labelled
    joint_visible    (rows, M, 104) uint8, of the frame: 0 outside, 1 hidden, 2 seen
    keypoints        (rows, M, 17, 3) float32 of coco17: x, y in pixels of the frame, confidence
    keypoint_visible (rows, M, 17) uint8, as joint_visible
    ignore           (rows, C, C) uint8, C = S / 8: share of 255 of each block of 8 x 8 pixels of
                     the frame where people may be who are not among the present: a crowd, people
                     whom nobody labelled, people whom the rules leave out
    tags             (rows, 10) int32, see TAGS
    look             (rows, 29) float32, uniform: see DEGRADE, TONE and CAMERA

What is cut and augmented on the device, labels with it: data/loading/frame_batch.py. Runs in the
loader's workers; imports neither torch nor webdataset.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.cropping.geometry import Size, Square, find_longer, find_sides, image_to_crop
from data.format.frame import ASPECTS, Frame
from data.format.joint_sets import match_joint_sets
from data.format.labels import OUTSIDE, SEEN, Labels
from data.loading import reader
from data.loading.frame_files import FrameFiles
from data.loading.reader import Arrays, Members, NoPair, ShardReader
from data.sampling.order import Draw
from engine.config.parser import key
from engine.errors import UserError

TAGS = (*reader.TAGS[:7], "people", "width", "height")  # kind: which of ASPECTS the batch is of
NUMBERS, LOOK = 8, 29
DEGRADE, TONE, CAMERA = slice(0, 20), slice(20, 28), 28  # columns of "look"
KEYPOINT_SET, KEYPOINTS = "coco17", 17
ANNY = "anny"
BODY = {"pose": (104, 3), "root": (3,), "shape": (6,), "face": (52,), "joints": (104, 3)}
IGNORE_STEP = 8  # pixels of the frame along a cell of "ignore"
ID_STEP = 2  # every second pixel of a row and column tells what a cut shows of somebody


@dataclass
class FrameRules:
    """Selects whom of a frame is learnt from."""

    people_max: int = key(16, "people of a frame at most, those who are shown most", low=1)
    shown_min: float = key(
        0.05,
        "least share of a person that the cut shows, of what no thing, person or border hides",
        low=0,
        high=1,
    )
    empty: bool = key(False, "frames with nobody by these rules are learnt from, too")


@dataclass
class FrameAugmentConfig:
    """Sets how whole frames are cut, rotated, mirrored and changed in training."""

    scale_min: float = key(
        0.5, "smallest cut, as a share of one that holds the whole frame", low=0.1, high=2
    )
    scale_max: float = key(
        1.15, "largest cut; what lies outside of the frame is black", low=0.1, high=2
    )
    whole_share: float = key(0.3, "share of frames that are not cut", low=0, high=1)
    rotation_deg: float = key(
        8.0, "largest rotation of the image either way; the camera rotates with it", low=0, high=180
    )
    flip: bool = key(True, "mirror half of the frames, left and right swapped")
    colour: float = key(
        0.4,
        "brightness, contrast, saturation are multiplied by 1 - colour to 1 + colour",
        low=0,
        high=1,
    )
    degrade_share: float = key(
        0.0,
        "share of images that are blurred, that are made small and large again, that get noise, "
        "and that get blocks as of a strong compression; each is drawn by itself",
        low=0,
        high=1,
    )
    tone: float = key(
        0.0,
        "red, green and blue are multiplied by 1 - tone to 1 + tone each, and mid-tones are raised "
        "or lowered by up to half of it",
        low=0,
        high=0.5,
    )
    hue_deg: float = key(0.0, "largest rotation of hues either way", low=0, high=180)
    grey_share: float = key(0.0, "share of images without colour", low=0, high=1)

    def check(self) -> None:
        """Raise UserError where scale_min is above scale_max."""
        if self.scale_min > self.scale_max:
            raise UserError(
                f"data.augment.scale_min={self.scale_min} is above "
                f"data.augment.scale_max={self.scale_max}"
            )


def size_of_aspect(aspect: int, side: int, patch: int) -> tuple[int, int]:
    """(rows, columns) of images of an aspect with about side x side pixels, in whole patches.

    Args:
        aspect: number of one of data.format.frame.ASPECTS.
    """
    ratio = list(ASPECTS.values())[aspect] ** 0.5
    rows, columns = (max(1, round(side * factor / patch)) for factor in (1 / ratio, ratio))
    return rows * patch, columns * patch


def list_sizes(side: int, patch: int) -> list[tuple[int, int]]:
    """(rows, columns) of each of data.format.frame.ASPECTS; see size_of_aspect."""
    return [size_of_aspect(aspect, side, patch) for aspect in range(len(ASPECTS))]


def layout(rows: int, side: int, people: int) -> reader.Shapes:
    """{name: (shape, dtype)} of the arrays that one batch fills; see the module.

    Args:
        side: of the longest frame.  people: M.
    """
    each: dict[str, tuple[tuple[int, ...], type]] = {
        name: (shape, np.float32) for name, shape in BODY.items()
    }
    each |= {
        "present": ((), np.uint8),
        "shown": ((), np.float32),
        "box": ((4,), np.float32),
        "track": ((), np.int32),
        "body_known": ((), np.uint8),
        "joint_visible": ((104,), np.uint8),
        "keypoints": ((KEYPOINTS, 3), np.float32),
        "keypoint_visible": ((KEYPOINTS,), np.uint8),
    }
    arrays: reader.Shapes = {
        "pixels": ((rows, side, side, 3), np.uint8),
        "size": ((rows, 2), np.float32),
        "numbers": ((rows, NUMBERS), np.float32),
        "K": ((rows, 3, 3), np.float32),
        "Rt": ((rows, 3, 4), np.float32),
        "camera_known": ((rows,), np.uint8),
        "ignore": ((rows, *[-(-side // IGNORE_STEP)] * 2), np.uint8),
        "tags": ((rows, len(TAGS)), np.int32),
        "look": ((rows, LOOK), np.float32),
    }
    arrays |= {name: ((rows, people, *shape), kind) for name, (shape, kind) in each.items()}
    return arrays


class FrameReader(ShardReader):
    """Reads frames into arrays of layout().

    ``rules``: FrameRules. ``augment``: FrameAugmentConfig.

    Attributes:
        sizes: (rows, columns) of the images of each of ASPECTS.
        late_sizes: the same from slot ``late_from`` on; none: ``sizes`` to the end.
    """

    sizes: Sequence[Size] = ()
    late_sizes: Sequence[Size] = ()
    late_from: int = 0
    _slot: int = 0  # that is being filled

    def fill(self, arrays: Arrays, row: int, n: int) -> None:
        """Fill one row with slot n; see ShardReader."""
        self._slot = n
        super().fill(arrays, row, n)

    def find_size(self, aspect: int) -> Size:
        """Return the size of the images of an aspect in the slot that is being filled."""
        late = len(self.late_sizes) > 0 and self._slot >= self.late_from
        return (self.late_sizes if late else self.sizes)[aspect]

    def wanted(self, kind: int) -> str:
        """Return what a slot holds, in words."""
        return f"{list(ASPECTS)[kind]} frame with people"

    def place(
        self, arrays: Arrays, row: int, path: str, draw: Draw, random: np.random.Generator
    ) -> tuple[int, int, int]:
        """Decode a frame, draw its cut and put everybody whom it shows into a row.

        Returns how many people there are, and the frame's width and height.
        """
        files, frame, members = self._open(path, draw)
        ids = files.ids(path, frame, members)
        size = self.find_size(draw.kind)
        numbers = self._draw_cut(random, frame, size)
        shown = _measure_shown(frame, ids, numbers, size)
        whom = self._choose(frame, shown)
        if not len(whom):  # a cut that shows nobody: the whole frame is taken
            numbers[:4] = [*whole_cut(frame.width, frame.height, size), 0]
            shown = _measure_shown(frame, ids, numbers, size)
            whom = self._choose(frame, shown)
        if not len(whom) and not self.rules.empty:
            raise NoPair
        self.put(arrays, row, path, frame, members, numbers, whom, shown, ids)
        return len(whom), frame.width, frame.height

    def place_whole(self, arrays: Arrays, row: int, path: str, draw: Draw) -> tuple[int, int, int]:
        """As ``place``, for validation: the whole frame, as it is."""
        files, frame, members = self._open(path, draw)
        size = self.sizes[draw.kind]
        ids = files.ids(path, frame, members)
        numbers = np.array([*whole_cut(frame.width, frame.height, size), 0, 0, 1, 1, 1])
        shown = _measure_shown(frame, ids, numbers, size)
        whom = self._choose(frame, shown)
        self.put(arrays, row, path, frame, members, numbers, whom, shown, ids)
        return len(whom), frame.width, frame.height

    def _open(self, path: str, draw: Draw) -> tuple[FrameFiles, Frame, Members]:
        if path in self.skip:
            raise NoPair
        files = FrameFiles(self.store)
        return files, *files.frame(path, draw.index)

    def put(
        self,
        arrays: Arrays,
        row: int,
        path: str,
        frame: Frame,
        members: Members,
        numbers: np.ndarray,
        whom: np.ndarray,
        shown: np.ndarray,
        ids: np.ndarray | None,
    ) -> None:
        """Put a frame and some of its people (n,) into a row; ``shown`` is of all of them."""
        files = FrameFiles(self.store)
        labels = files.labels(path, frame, members)
        files.decode(arrays["pixels"][row], path, frame, members)
        ignored = files.ignored(path, frame, members)
        _put_ignored(arrays["ignore"][row], frame, ignored, ids, whom)
        arrays["numbers"][row] = numbers
        arrays["size"][row] = frame.width, frame.height
        known = frame.K is not None and frame.Rt is not None
        arrays["camera_known"][row] = frame.K is not None
        arrays["K"][row] = np.eye(3) if frame.K is None else frame.K
        arrays["Rt"][row] = np.eye(4)[:3] if frame.Rt is None else frame.Rt
        for name in (*BODY, "present", "shown", "box", "track", "body_known", "joint_visible"):
            arrays[name][row] = 0  # what an earlier batch left there
        arrays["keypoints"][row], arrays["keypoint_visible"][row] = 0, OUTSIDE
        for at, number in enumerate(whom.tolist()):
            person = frame.people[number]
            arrays["present"][row, at] = 1
            arrays["shown"][row, at] = shown[number]
            arrays["box"][row, at] = np.nan if person.box is None else person.box
            arrays["track"][row, at] = _hash_track(frame.scene, person.track)
            if labels is not None:
                _put_keypoints(arrays, row, at, labels, number)
                if known:
                    _put_body(arrays, row, at, labels, number, np.asarray(frame.Rt, np.float64))

    def draw_numbers(self, arrays: Arrays, row: int, random: np.random.Generator) -> None:
        """Fill in the slot's look; a cut decides whom a frame shows and is drawn in ``place``."""
        arrays["look"][row] = random.random(LOOK, np.float32)

    def _draw_cut(self, random: np.random.Generator, frame: Frame, size: Size) -> np.ndarray:
        """(8,) numbers of a row; always as many are drawn."""
        augment, u = self.augment, random.random(9)
        x, y, side = whole_cut(frame.width, frame.height, size)
        angle = 0.0
        if u[0] >= augment.whole_share:
            side *= augment.scale_min + (augment.scale_max - augment.scale_min) * u[1]
            (rows, columns), longer = find_sides(size), find_longer(size)
            # The cut stays inside the frame where it is smaller, around it where it is larger.
            x += (u[2] - 0.5) * abs(frame.width - side * columns / longer)
            y += (u[3] - 0.5) * abs(frame.height - side * rows / longer)
            angle = np.deg2rad(augment.rotation_deg) * (2 * u[4] - 1)
        flip = float(augment.flip and u[5] < 0.5)
        colours = 1 + augment.colour * (2 * u[6:] - 1)
        return np.array([x, y, side, angle, flip, *colours])

    def _choose(self, frame: Frame, shown: np.ndarray) -> np.ndarray:
        """(n,) increasing numbers of the people whom the rules want."""
        wanted = np.flatnonzero(shown >= max(self.rules.shown_min, 1e-6))
        if self.exclude:
            mine = [reader.normalise(frame.people[i].subject) not in self.exclude for i in wanted]
            if not all(mine):
                raise NoPair  # who withdraws is in the image too
        most = np.argsort(-shown[wanted], kind="stable")[: self.rules.people_max]
        return np.sort(wanted[most])


def _measure_shown(
    frame: Frame, ids: np.ndarray | None, numbers: np.ndarray, size: Size
) -> np.ndarray:
    """(P,) share of each person that a cut shows.

    What the frame shows of somebody times the share of that person's pixels that are in the cut;
    where there are no ids, of the box. Where nobody knows how much the frame shows, all.
    """
    shown = np.array([1.0 if p.shown is None else p.shown for p in frame.people], float)
    to_cut = image_to_crop(Square(*numbers[:4]), size)
    if ids is not None:
        return shown * share_in_cut(ids, len(frame.people), to_cut, size)
    boxes = [person.box for person in frame.people]
    inside = [1.0 if box is None else _share_of_box(box, to_cut, size) for box in boxes]
    return shown * np.array(inside)


def _put_ignored(
    out: np.ndarray,
    frame: Frame,
    ignored: np.ndarray | None,
    ids: np.ndarray | None,
    whom: np.ndarray,
) -> None:
    """Fill cells (C, C) uint8 of "ignore"; ``whom`` (n,) are the people who are present."""
    out[:] = 0
    left_out = np.setdiff1d(np.arange(len(frame.people)), whom)
    if ignored is None and not len(left_out):
        return
    where = np.zeros((frame.height, frame.width), bool) if ignored is None else ignored.copy()
    for number in left_out.tolist():
        box = frame.people[number].box
        if ids is not None:
            where |= ids == number + 1
        elif box is not None:
            x0, y0, x1, y1 = np.asarray(box, np.float64).clip(0).round().astype(int).tolist()
            where[y0:y1, x0:x1] = True
    rows, columns = (-(-side // IGNORE_STEP) for side in where.shape)
    padded = np.zeros((rows * IGNORE_STEP, columns * IGNORE_STEP), np.float32)
    padded[: where.shape[0], : where.shape[1]] = where
    cells = padded.reshape(rows, IGNORE_STEP, columns, IGNORE_STEP).mean((1, 3))
    out[:rows, :columns] = np.round(cells * 255)


def whole_cut(width: int, height: int, size: Size) -> tuple[float, float, float]:
    """Centre x, y and side of the square whose middle of this shape just holds a whole frame."""
    (rows, columns), longer = find_sides(size), find_longer(size)
    return width / 2, height / 2, max(width * longer / columns, height * longer / rows)


def share_in_cut(ids: np.ndarray, people: int, to_cut: np.ndarray, size: Size) -> np.ndarray:
    """(P,) share of each person's pixels that lie in a cut; 0 of somebody who has none.

    Args:
        ids: (height, width) uint8.  to_cut: (3, 3) of data.cropping.geometry.image_to_crop.
    """
    step = ID_STEP if min(ids.shape) >= 128 else 1
    few = ids[::step, ::step]
    y, x = np.nonzero(few)
    who = few[y, x].astype(np.int64) - 1
    at = np.stack([x * step + 0.5, y * step + 0.5]).astype(np.float64)
    u, v = to_cut[:2, :2] @ at + to_cut[:2, 2:]
    rows, columns = find_sides(size)
    inside = (u >= 0) & (v >= 0) & (u < columns) & (v < rows)
    every = np.bincount(who, minlength=people)
    return np.bincount(who, inside, people) / np.maximum(every, 1)


def _share_of_box(box: Sequence[float] | np.ndarray, to_cut: np.ndarray, size: Size) -> float:
    """Share of a box's points, 16 x 16, that lie in a cut."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    part = (np.arange(16) + 0.5) / 16
    x, y = np.meshgrid(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part)
    u, v = to_cut[:2, :2] @ np.stack([x.ravel(), y.ravel()]) + to_cut[:2, 2:]
    rows, columns = find_sides(size)
    return float(((u >= 0) & (v >= 0) & (u < columns) & (v < rows)).mean())


def _hash_track(scene: str, track: str) -> int:
    """A number of 31 bits of a person in a scene, above 0."""
    data = f"{scene}\n{track}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(data, digest_size=4, person=b"track").digest()
    return int.from_bytes(digest, "little") % (2**31 - 1) + 1


def _put_keypoints(arrays: Arrays, row: int, at: int, labels: Labels, number: int) -> None:
    found = labels.keypoints
    if found is None:
        return
    places = match_joint_sets(found.joint_set, KEYPOINT_SET)
    there = np.flatnonzero(places >= 0)
    own = places[there]
    arrays["keypoints"][row, at, there, :2] = found.points[number, own]
    arrays["keypoints"][row, at, there, 2] = found.confidence[number, own]
    # A labelled point of a photograph is in the image; whether it is seen nobody may have said.
    seen = np.full(len(own), SEEN) if found.visible is None else found.visible[number, own]
    arrays["keypoint_visible"][row, at, there] = seen


def _put_body(
    arrays: Arrays, row: int, at: int, labels: Labels, number: int, Rt: np.ndarray
) -> None:
    """Put anny's parameters and joints in the camera's axes; nothing where they are not labelled.

    As vertices turn and move with the root: R v + t is the body of R @ root's rotation at
    R @ root + t.
    """
    body, joints = labels.body, labels.joints
    if body is None or body.model != ANNY or joints is None or labels.frame == "root":
        return
    if not all(known[number] for known in body.known.values()):
        return
    values = body.parameters
    arrays["body_known"][row, at] = 1
    pose = arrays["pose"][row, at]
    pose[:] = values["pose"][number]
    turned = Rt[:, :3] @ _to_matrix(np.asarray(pose[0], np.float64))
    pose[0] = _to_vector(turned)
    arrays["root"][row, at] = Rt[:, :3] @ values["root"][number] + Rt[:, 3]
    arrays["shape"][row, at] = values["phenotype"][number]
    arrays["face"][row, at] = values["face"][number]
    arrays["joints"][row, at] = joints.points[number] @ Rt[:, :3].T + Rt[:, 3]
    if joints.visible is not None:
        arrays["joint_visible"][row, at] = joints.visible[number]


def _to_matrix(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of a rotation vector (3,), by Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _to_vector(matrix: np.ndarray) -> np.ndarray:
    """(3,) rotation vector of a (3, 3) rotation, by the largest part of its quaternion.

    Shepperd, "Quaternion from rotation matrix", 1978.
    """
    m = matrix
    trace = np.trace(m)
    squares = np.array([trace, *np.diag(m)])
    big = int(squares.argmax())
    q = np.empty(4)
    if big == 0:
        q[:] = [1 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]
    else:
        i = big - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q[0] = m[k, j] - m[j, k]
        q[1 + i] = 1 + 2 * m[i, i] - trace
        q[1 + j] = m[j, i] + m[i, j]
        q[1 + k] = m[k, i] + m[i, k]
    q /= np.linalg.norm(q)
    q = -q if q[0] < 0 else q
    length = float(np.linalg.norm(q[1:]))
    return q[1:] * (2 * np.arctan2(length, q[0]) / length if length > 1e-12 else 2.0)
