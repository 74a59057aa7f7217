"""BVH files: a skeleton in a zero pose, and channels a frame.

The format is what Biovision's own documentation and its many writers agree on: offsets from the
parent, rotations in degrees that are applied in the order in which their channels are listed, a
position that takes the place of the offset. Which axis is up is not written: it is y, unless the
people in the file stand along z.
"""

import os
from dataclasses import dataclass

import numpy as np

from data.people.recorded.names import find_roles
from data.people.recorded.track import Track, make_track
from engine.errors import UserError, explain, failure_of

MOST_BYTES = 1 << 30
MOST_JOINTS = 1000
Y_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a file's y is the world's z
_HEADER_BYTES = 1 << 20
_AXES = {"X": 0, "Y": 1, "Z": 2}


@dataclass
class Skeleton:
    """The head of a BVH file.

    Attributes:
        names, parents, offsets: of the J joints, parents first; ends have no channels.
        channels: for each joint the names of its channels, in order.
    """

    names: list[str]
    parents: list[int]
    offsets: list[list[float]]
    channels: list[list[str]]


def check_bvh(path: str) -> None:
    """Read a file's skeleton alone.

    Raises:
        UserError: it cannot be read, is no BVH, or has joints that cannot be identified.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_HEADER_BYTES)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    skeleton = _read_skeleton(text.decode("utf-8", "replace").split("MOTION")[0], path)
    find_roles(skeleton.names, skeleton.parents, path)


def read_bvh(path: str) -> Track:
    """The Track in a BVH file; its first frame, often a pose that was put before, is left out.

    Raises:
        UserError: it cannot be read, is no BVH, or has joints that cannot be identified.
    """
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise UserError(f"{path} is refused: {os.path.getsize(path)} bytes")
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    head, _, motion = text.partition("MOTION")
    skeleton = _read_skeleton(head, path)
    roles = find_roles(skeleton.names, skeleton.parents, path)
    values, rate_hz = _read_frames(motion, sum(map(len, skeleton.channels)), path)
    local, root = _apply_channels(skeleton, values)
    offsets = np.array(skeleton.offsets)
    track = make_track(roles, skeleton.parents, offsets, local, root, Y_UP, rate_hz)
    if not _stands_along_z(track):
        return track
    return make_track(roles, skeleton.parents, offsets, local, root, np.eye(3), rate_hz)


def _stands_along_z(track: Track) -> bool:
    """Whether heads are over pelvises along the file's own z rather than its y.

    The track was read with y up, so that the file's z is the world's -y.
    """
    rest = track.rest["head"] - track.rest["pelvis"]
    way = (track.rotations["pelvis"] @ rest).mean(0)
    return bool(-way[1] > 2 * abs(way[2]))


def _read_skeleton(text: str, path: str) -> Skeleton:
    words = iter(text.split())
    out = Skeleton([], [], [], [])
    open_joints: list[int] = []
    try:
        if next(words).upper() != "HIERARCHY":
            raise ValueError("it does not begin with HIERARCHY")
        for word in words:
            kind = word.upper()
            if kind in ("ROOT", "JOINT", "END"):
                _open_joint(out, kind, words, open_joints)
            elif kind == "OFFSET":
                out.offsets[open_joints[-1]] = [float(next(words)) for _ in range(3)]
            elif kind == "CHANNELS":
                count = int(next(words))
                names = [next(words) for _ in range(count)]
                out.channels[open_joints[-1]] = [_check_channel(name) for name in names]
            elif kind == "}":
                open_joints.pop()
            else:
                raise ValueError(f"'{word[:40]}' in its HIERARCHY")
    except (StopIteration, IndexError, ValueError) as error:
        reason = str(error) or "its HIERARCHY ends early"
        raise UserError(f"{path} is no BVH file, or is damaged: {reason}") from None
    if open_joints or not out.names:
        raise UserError(f"{path} is no BVH file, or is damaged: its HIERARCHY ends early")
    if not np.isfinite(out.offsets).all():
        raise UserError(f"{path}: an OFFSET is no finite number")
    return out


def _open_joint(out: Skeleton, kind: str, words, open_joints: list[int]) -> None:
    """Begin a joint; a name may hold spaces, and ends at the brace."""
    parts: list[str] = []
    for word in words:
        if word == "{":
            break
        parts.append(word)
    if kind == "ROOT" and out.names:
        raise ValueError(f"it holds a second ROOT, {' '.join(parts)[:40]}: one person a file")
    if len(out.names) >= MOST_JOINTS:
        raise ValueError(f"it has more than {MOST_JOINTS} joints")
    parent = open_joints[-1] if open_joints else -1
    is_end = kind == "END"
    out.names.append(f"end of {out.names[parent]}" if is_end else " ".join(parts))
    out.parents.append(parent)
    out.offsets.append([0.0, 0.0, 0.0])
    out.channels.append([])
    open_joints.append(len(out.names) - 1)


def _check_channel(name: str) -> str:
    plain = name.capitalize()
    if len(plain) < 9 or plain[0] not in _AXES or plain[1:] not in ("position", "rotation"):
        raise ValueError(f"a channel '{name[:40]}'")
    return plain


def _read_frames(text: str, width: int, path: str) -> tuple[np.ndarray, float]:
    """(F, width) values of the channels and the rate, without the first frame."""
    lines = text.split("\n", 3)
    try:
        head, time, rest = [line for line in lines[:3] if line.strip()][:2] + [lines[-1]]
        count = int(head.split(":")[1])
        step_s = float(time.split(":")[1])
    except (ValueError, IndexError):
        raise UserError(
            f"{path} is no BVH file, or is damaged: after MOTION come no Frames and Frame Time"
        ) from None
    try:
        values = np.array(rest.split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path}: a frame has a value that is not a number: {error}") from None
    if values.size != count * width:
        raise UserError(
            f"{path}: Frames: {count} of {width} channels are {count * width} numbers, and it "
            f"holds {values.size}"
        )
    if count < 3 or not step_s > 0 or not np.isfinite(values).all():
        raise UserError(
            f"{path}: at least 3 frames of finite numbers and a Frame Time above 0 are needed; it "
            f"has {count} at {step_s:g} s"
        )
    return values.reshape(count, width)[1:], 1 / step_s


def _apply_channels(skeleton: Skeleton, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, J, 3, 3) local rotations and (F, 3) where the root is.

    Positions of other joints, which some writers repeat each frame, are taken as their offsets.
    """
    count = len(values)
    local = np.tile(np.eye(3), (count, len(skeleton.names), 1, 1))
    root = np.tile(np.array(skeleton.offsets[0]), (count, 1))
    column = 0
    for joint, channels in enumerate(skeleton.channels):
        for channel in channels:
            axis = _AXES[channel[0]]
            if channel.endswith("rotation"):
                local[:, joint] = local[:, joint] @ _turn(axis, values[:, column])
            elif joint == 0:
                root[:, axis] = values[:, column]
            column += 1
    return local, root


def _turn(axis: int, degrees: np.ndarray) -> np.ndarray:
    """(F, 3, 3) rotations about an axis of the file."""
    angle = np.deg2rad(degrees)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((len(degrees), 3, 3))
    out[:, axis, axis] = 1
    out[:, first, first] = out[:, second, second] = np.cos(angle)
    out[:, second, first] = np.sin(angle)
    out[:, first, second] = -np.sin(angle)
    return out
