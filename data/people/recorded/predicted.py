"""NPZ files that ``counterpose predict`` writes of a video, as tracks: one person's motion.

A file's "about" says in JSON what its arrays are of; only arrays' names tie this to who writes it
(finetune/animation/formats/npz.py). The person who is in most frames is taken, and of it the
longest stretch without a gap. The camera's frame stands for the world: its y is down.
"""

import json
from dataclasses import dataclass

import numpy as np

from data.people.recorded import amass
from data.people.recorded.track import Track, make_track
from data.sources.labelled.npz import read_npz
from engine.errors import UserError

ABOUT = "about"
FORMAT = 1
ROWS = ("times", "pose", "joints")
Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # from a camera's axes: x right, y down
GAP = 1.5  # frames that are farther apart than so many times the usual have a gap between them
_LIMBS = {
    "arm": ("clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02"),
    "leg": ("pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot", "toe2-1"),
}
_ROLES = {
    **{"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "toes": "toe2-1"},
    **{"shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist"},
}


@dataclass
class _Figure:
    """The joints that are taken of a body model: their numbers there, parents here, and roles."""

    joints: list[int]
    parents: list[int]
    roles: dict[str, int]


def is_predicted(path: str) -> bool:
    """Whether an npz file says what it is about, as those of predict do.

    Raises:
        UserError: it cannot be read.
    """
    return bool(read_npz(path, [ABOUT]))


def read_predicted(path: str) -> Track:
    """The Track in a file of predict.

    Raises:
        UserError: it cannot be read, is of a newer format, or holds no body whose joints are known.
    """
    try:
        about = json.loads(str(read_npz(path, [ABOUT])[ABOUT]))
        if about["format"] > FORMAT:
            raise UserError(
                f"{path} is of format {about['format']}, and this version reads {FORMAT}"
            )
        bodies = [track for track in about["tracks"] if track["kind"] == "body"]
        tracks = [(track, _read_rows(path, track["name"])) for track in bodies]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no file of predict, or is damaged: {error}") from None
    if not tracks:
        raise UserError(f"{path} holds no whole body, and hands alone make nobody move")
    track, rows = max(tracks, key=lambda pair: len(pair[1]["times"]))
    return _make(path, track, rows)


def _read_rows(path: str, name: str) -> dict[str, np.ndarray]:
    """{array: values} of one person, whose shapes belong together."""
    found = read_npz(path, [f"{name}/{row}" for row in ROWS])
    rows = {row: np.asarray(found[f"{name}/{row}"], np.float64) for row in ROWS}
    count, joints = rows["joints"].shape[:2]
    wanted = {"times": (count,), "pose": (count, joints, 3, 3), "joints": (count, joints, 3)}
    for row, shape in wanted.items():
        if rows[row].shape != shape or not np.isfinite(rows[row]).all():
            raise ValueError(f"{name}/{row} is {rows[row].shape} and has to be finite {shape}")
    return rows


def _make(path: str, track: dict, rows: dict[str, np.ndarray]) -> Track:
    names = list(track["joint_names"])
    if len(names) != rows["joints"].shape[1]:
        raise UserError(
            f"{path}: {track['name']} has {rows['joints'].shape[1]} joints and names {len(names)}"
        )
    figure = _take_anny(names) if "upperleg01.L" in names else _take_smpl(path, track, names)
    kept = _longest_stretch(rows["times"])
    if kept.stop - kept.start < 2:
        raise UserError(f"{path}: {track['name']} is in no two frames one after the other")
    times, pose, joints = (rows[row][kept] for row in ROWS)
    local, places = pose[:, figure.joints], joints[:, figure.joints]
    offsets = _measure_offsets(figure, local, places)
    rate_hz = (len(times) - 1) / (times[-1] - times[0])
    return make_track(figure.roles, figure.parents, offsets, local, places[:, 0], Z_UP, rate_hz)


def _take_anny(names: list[str]) -> _Figure:
    taken, parents, at = ["root"], [-1], {"root": 0}

    def hang(chain: list[str], on: str) -> None:
        for name in chain:
            at[name] = len(taken)
            taken.append(name)
            parents.append(at[on])
            on = name

    spine = [f"spine0{k}" for k in (5, 4, 3, 2, 1)]
    hang([*spine, "neck01", "neck02", "neck03", "head"], "root")
    roles = {"pelvis": 0, "chest": at["spine01"], "head": at["head"]}
    for side, letter in (("left", "L"), ("right", "R")):
        hang([f"{bone}.{letter}" for bone in (*_LIMBS["arm"], "wrist")], "spine01")
        hang([f"{bone}.{letter}" for bone in _LIMBS["leg"]], "root")
        roles |= {f"{side}_{role}": at[f"{bone}.{letter}"] for role, bone in _ROLES.items()}
    return _Figure([names.index(name) for name in taken], parents, roles)


def _take_smpl(path: str, track: dict, names: list[str]) -> _Figure:
    """SMPL and its family, whose first 22 joints are the same."""
    count = len(amass.PARENTS)
    if len(names) < count or names[0] != "pelvis" or names[20:22] != ["left_wrist", "right_wrist"]:
        raise UserError(
            f"{path}: {track['name']} is of the body model {track['body']}; anny's motions are "
            f"read, and those of SMPL, SMPL+H and SMPL-X"
        )
    return _Figure(list(range(count)), amass.PARENTS, amass.ROLES)


def _longest_stretch(times: np.ndarray) -> slice:
    """The rows of the longest stretch without a gap."""
    if len(times) < 2:
        return slice(0, len(times))
    steps = np.diff(times)
    if (steps <= 0).any():
        return slice(0, 0)
    breaks = np.flatnonzero(steps > GAP * np.median(steps)) + 1
    edges = [0, *breaks.tolist(), len(times)]
    longest = int(np.argmax(np.diff(edges)))
    return slice(edges[longest], edges[longest + 1])


def _measure_offsets(figure: _Figure, local: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(J, 3) metres of each joint from its parent, in the parent's own axes."""
    turned: list[np.ndarray] = []
    offsets = np.zeros((len(figure.parents), 3))
    for joint, parent in enumerate(figure.parents):
        if parent < 0:
            turned.append(local[:, joint])
            continue
        away = places[:, joint] - places[:, parent]
        offsets[joint] = np.einsum("fji,fj->fi", turned[parent], away).mean(0)
        turned.append(turned[parent] @ local[:, joint])
    return offsets
