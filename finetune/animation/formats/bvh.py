"""BVH: a skeleton and its angles at an even rate, a file a person.

Centimetres and degrees, y up. ROOT has "Xposition Yposition Zposition Zrotation Xrotation
Yrotation" and every JOINT "Zrotation Xrotation Yrotation": each axis is turned by those before it.
At 0 all joints are as the body stands at rest: upright, facing z. OFFSETs are those of the person's
own shape. BVH has no way to say that somebody is not there: in a gap the last pose is held.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.rig import Rig, make_motion, make_rig
from finetune.animation.track import Take, Track
from finetune.animation.turning import to_zxy_angles, unwrap_rows

CM = 100.0  # a metre
TURNS = "Zrotation Xrotation Yrotation"
PLACES = "Xposition Yposition Zposition"
LEAST_END_CM = 1.0  # of the bone after a joint without children


@FORMATS.register("bvh")
def write_bvh(take: Take, stem: Path) -> list[Path]:
    """Write STEM.NAME.bvh of each person, from their first frame to their last."""
    return [
        write_parts(f"{stem}.{track.name}.bvh", _list_lines(take, track)) for track in take.tracks
    ]


def _list_lines(take: Take, track: Track) -> Iterator[str]:
    rig, motion = make_rig(track), make_motion(track)
    order: list[int] = []
    yield "HIERARCHY\n"
    yield from _list_joint(rig, 0, 0, order)
    rows = spread_rows(track, take)
    angles = np.rad2deg(unwrap_rows(to_zxy_angles(motion.turns)))
    yield f"MOTION\nFrames: {len(rows)}\nFrame Time: {1 / take.fps:.9f}\n"
    for row in rows:
        numbers = np.concatenate([motion.places[row] * CM, angles[row, order].ravel()])
        yield " ".join(f"{value:.6f}" for value in numbers) + "\n"


def _list_joint(rig: Rig, joint: int, depth: int, order: list[int]) -> Iterator[str]:
    """The lines of a joint and all below; ``order`` gets the joints as the channels have them."""
    order.append(joint)
    tab = "\t" * depth
    name = rig.joint_names[joint]
    yield f"{tab}{'JOINT' if depth else 'ROOT'} {name}\n{tab}{{\n"
    yield f"{tab}\tOFFSET {_word(rig.offsets[joint] * CM)}\n"
    yield f"{tab}\tCHANNELS {f'3 {TURNS}' if depth else f'6 {PLACES} {TURNS}'}\n"
    children = [child for child, parent in enumerate(rig.parents) if parent == joint]
    for child in children:
        yield from _list_joint(rig, child, depth + 1, order)
    if not children:
        end = _find_end(rig, joint)
        yield f"{tab}\tEnd Site\n{tab}\t{{\n{tab}\t\tOFFSET {_word(end)}\n{tab}\t}}\n"
    yield f"{tab}}}\n"


def _find_end(rig: Rig, joint: int) -> np.ndarray:
    """(3,) centimetres from a last joint to where its mesh ends, along its own bone."""
    bone = rig.offsets[joint]
    length = np.linalg.norm(bone)
    along = bone / length if length else np.array([0.0, 1.0, 0.0])
    own = rig.vertices[rig.weights[:, joint] > 0.5]
    reach = ((own - rig.joints[joint]) @ along).max() if len(own) else 0.0
    return along * max(float(reach) * CM, LEAST_END_CM)


def _word(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def spread_rows(track: Track, take: Take) -> np.ndarray:
    """Return the row of a track for each step of an even rate, from its first frame to its last.

    In a gap it is the last row before it.
    """
    first, last = float(track.times[0]), float(track.times[-1])
    steps = first + np.arange(round((last - first) * take.fps) + 1) / take.fps
    # Half a step ahead: the frame that is nearest, not the one before.
    rows = np.searchsorted(track.times, steps + 0.5 / take.fps, "right") - 1
    return np.clip(rows, 0, len(track) - 1)
