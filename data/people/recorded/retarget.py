"""From the rotations of a recorded skeleton to those of anny's.

A bone's rotation in the world, relative to the recorded zero pose, is put onto anny's bone; what
is constant is how anny's rest pose lies in the recorded zero pose: ``fit_rest`` finds a rotation
for each bone. The torso follows from hips and up; limbs lie along their bones, with as little twist
as can be; feet are flat in a zero pose that stands. Some rigs' zero pose is no person (LAFAN1: all
bones along x): there the twist of thighs and upper arms is such that knees and elbows bend, over
the frames, about the axis that anny's bend about.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.people.recorded.track import SIDES, Track
from data.people.recorded.turns import (
    mix_turns,
    part_of,
    turn_about,
    turn_between,
    twist_angle,
    unit,
)
from data.people.rig import SIDES as RIG_SIDES
from data.people.rig import Rig

LETTERS = {name: letter for letter, name, _ in RIG_SIDES}
SIGNS = {name: sign for _, name, sign in RIG_SIDES}
NECK = (("neck01", 0.2), ("neck02", 0.2), ("neck03", 0.2), ("head", 0.4))
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
TWIST_SHARE = 0.55  # of the forearm's twist that is in the forearm, as in rig.py
TOES_LOW, TOES_HIGH = np.deg2rad([-30.0, 50.0])
# Of roles, the bones of anny's rig that begin there.
BONES = {
    **{"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "toes": "toe2-1"},
    **{"shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist"},
}
_AXIS_COS = np.cos(np.deg2rad(20.0))
_X = np.array([1.0, 0, 0])
FLIGHT_S = 0.5  # before and after an instant, within which whoever jumps is on the floor
STRIDE_SHARE = 0.07  # of a leg: the lowest joint, an ankle or toe, rises as much in a stride


@dataclass
class Pose:
    """A recorded motion at T instants, on anny's rig.

    Attributes:
        rotations: (T, B, 3, 3) relative to the parent, in axes that are the world's at rest.
        root: (T, 3) metres; its height is left at 0.
        lift_m: (T,) how far the lowest point is above the floor: in the air, or 0.
    """

    rotations: np.ndarray
    root: np.ndarray
    lift_m: np.ndarray


def fit_rest(track: Track, rig: Rig) -> dict[str, np.ndarray]:
    """{role: (3, 3)} from anny's axes at rest to those of the recorded joint."""
    torso = _fit_torso(track)
    out = dict.fromkeys(("pelvis", "chest", "head"), torso)
    stands = _is_standing(track, torso)
    for side in SIDES:
        _fit_leg(out, track, rig, side, torso, stands)
        _fit_arm(out, track, rig, side, torso, stands)
    return out


def _fit_torso(track: Track) -> np.ndarray:
    rest = track.rest
    hips = rest["left_hip"], rest["right_hip"]
    up = unit(rest["head"] - (hips[0] + hips[1]) / 2)
    nearest = np.abs(up).argmax()
    if abs(up[nearest]) > _AXIS_COS:  # heads are not exactly above hips; the file's axis is up
        up = np.eye(3)[nearest] * np.sign(up[nearest])
    left = hips[0] - hips[1]
    left = unit(left - (left @ up) * up)
    return np.stack([left, np.cross(up, left), up], 1)


def _is_standing(track: Track, torso: np.ndarray) -> bool:
    """Whether the zero pose is somebody upright, arms anywhere between hanging and raised a bit."""
    rest, up = track.rest, torso[:, 2]
    for side in SIDES:
        for upper, lower in (("hip", "knee"), ("knee", "ankle")):
            if unit(rest[f"{side}_{lower}"] - rest[f"{side}_{upper}"]) @ up > -0.8:
                return False
        if unit(rest[f"{side}_elbow"] - rest[f"{side}_shoulder"]) @ up > 0.5:
            return False
    return True


def _along(rig: Rig, side: str, upper: str, lower: str) -> np.ndarray:
    """Direction of one of anny's bones at rest."""
    letter = LETTERS[side]
    start, end = (rig.rest[rig.index[f"{BONES[limb]}.{letter}"]] for limb in (upper, lower))
    return unit(end - start)


def _fit_bone(start: np.ndarray, along: np.ndarray, wanted: np.ndarray, hinge: np.ndarray):
    """``start``, turned as little as can be so that the bone lies as ``wanted``."""
    return turn_between(start @ along, wanted, start @ hinge) @ start


def _fit_leg(
    out: dict[str, np.ndarray],
    track: Track,
    rig: Rig,
    side: str,
    torso: np.ndarray,
    stands: bool,
) -> None:
    hip, knee, ankle, toes = (f"{side}_{limb}" for limb in ("hip", "knee", "ankle", "toes"))
    rest = track.rest
    thigh = unit(rest[knee] - rest[hip])
    out[hip] = _fit_bone(torso, _along(rig, side, "hip", "knee"), thigh, _X)
    if not stands:
        out[hip] = _twist_to_hinge(out[hip], track, (hip, knee, ankle), _X)
    shin = unit(rest[ankle] - rest[knee])
    out[knee] = _fit_bone(out[hip], _along(rig, side, "knee", "ankle"), shin, _X)
    out[ankle] = torso if stands else out[knee]
    if toes in rest:
        foot, wanted = _along(rig, side, "ankle", "toes"), unit(rest[toes] - rest[ankle])
        if stands:  # flat: only its heading
            flat = np.eye(3) - np.outer(torso[:, 2], torso[:, 2])
            out[ankle] = turn_between(flat @ torso @ foot, flat @ wanted, torso[:, 2]) @ torso
        else:
            out[ankle] = _fit_bone(out[knee], foot, wanted, _X)
    out[toes] = out[ankle]


def _fit_arm(
    out: dict[str, np.ndarray],
    track: Track,
    rig: Rig,
    side: str,
    torso: np.ndarray,
    stands: bool,
) -> None:
    shoulder, elbow, wrist = (f"{side}_{limb}" for limb in ("shoulder", "elbow", "wrist"))
    rest, axes = track.rest, rig.axes[LETTERS[side]]
    upper = unit(rest[elbow] - rest[shoulder])
    back = np.array([0.0, 1.0, 0.0])
    out[shoulder] = _fit_bone(torso, axes["upper"], upper, back)
    if not stands:
        out[shoulder] = _twist_to_hinge(
            out[shoulder], track, (shoulder, elbow, wrist), axes["elbow"]
        )
    fore = unit(rest[wrist] - rest[elbow])
    out[elbow] = _fit_bone(out[shoulder], axes["fore"], fore, axes["elbow"])
    out[wrist] = out[elbow]


def _twist_to_hinge(
    start: np.ndarray, track: Track, limb: tuple[str, str, str], hinge: np.ndarray
) -> np.ndarray:
    """``start``, twisted about the upper bone so that ``hinge`` is what the limb bends about."""
    upper, middle, lower = limb
    along = unit(track.rest[middle] - track.rest[upper])
    below = unit(track.rest[lower] - track.rest[middle])
    relative = np.swapaxes(track.rotations[upper], -1, -2) @ track.rotations[middle]
    bends = np.cross(along, relative @ below).mean(0)  # long where it bends much
    if np.linalg.norm(bends) < 0.05:
        return start  # never bent: nothing is known
    now = start @ hinge
    now = unit(now - (now @ along) * along)
    wanted = unit(bends - (bends @ along) * along)
    angle = np.arctan2(np.cross(now, wanted) @ along, now @ wanted)
    return turn_about(along, angle) @ start


def put_on_rig(
    track: Track, fitted: dict[str, np.ndarray], rig: Rig, times_s: np.ndarray, leg_m: float
) -> Pose:
    """The Pose of a track at T times.

    Args:
        fitted: of fit_rest.  times_s: (T,) from the track's begin.  leg_m: of the person.
    """
    place = np.clip(times_s * track.rate_hz, 0, len(track.root) - 1)
    before = np.minimum(place.astype(int), len(track.root) - 2)
    share = place - before
    turned = {}
    for role, rotations in track.rotations.items():
        mixed = mix_turns(rotations[before], rotations[before + 1], share)
        turned[role] = mixed.astype(np.float64) @ fitted[role]
    scale = leg_m / track.leg
    root = track.root[before] * (1 - share[:, None]) + track.root[before + 1] * share[:, None]
    root = root * scale
    root[:, 2] = 0
    return Pose(_bend_rig(turned, rig), root, find_lift(track, times_s) * scale)


def _bend_rig(turned: dict[str, np.ndarray], rig: Rig) -> np.ndarray:
    """(T, B, 3, 3) of the rotations of bones in the world."""
    pelvis, chest = turned["pelvis"], turned["chest"]
    out = np.tile(np.eye(3), (len(pelvis), len(rig.names), 1, 1))

    def back(rotations: np.ndarray) -> np.ndarray:
        return np.swapaxes(rotations, -1, -2)

    out[:, 0] = pelvis
    for bone in SPINE:
        out[:, rig.index[bone]] = part_of(back(pelvis) @ chest, 1 / len(SPINE))
    for bone, share in NECK:
        out[:, rig.index[bone]] = part_of(back(chest) @ turned["head"], share)
    for side in SIDES:
        letter = LETTERS[side]
        hip, knee, ankle = (turned[f"{side}_{limb}"] for limb in ("hip", "knee", "ankle"))
        out[:, rig.index[f"upperleg01.{letter}"]] = back(pelvis) @ hip
        out[:, rig.index[f"lowerleg01.{letter}"]] = back(hip) @ knee
        out[:, rig.index[f"foot.{letter}"]] = back(knee) @ ankle
        if f"{side}_toes" in turned:
            bent = twist_angle(back(ankle) @ turned[f"{side}_toes"], _X)
            bent = turn_about(_X, np.clip(bent, -TOES_HIGH, -TOES_LOW))
            for toe in "12345":
                out[:, rig.index[f"toe{toe}-1.{letter}"]] = bent
        _bend_arm(out, turned, rig, side)
    return out


def _bend_arm(out: np.ndarray, turned: dict[str, np.ndarray], rig: Rig, side: str) -> None:
    """Shoulder girdle, shoulder, elbow, forearm and wrist of one arm; in place.

    The elbow bends, and what the hand twists by is shared between forearm and wrist, as in rig.py.
    """
    letter, axes = LETTERS[side], rig.axes[LETTERS[side]]
    shoulder, elbow = turned[f"{side}_shoulder"], turned[f"{side}_elbow"]
    arm = np.swapaxes(turned["chest"], -1, -2) @ shoulder
    clavicle, scapula = rig.lift_shoulder(arm @ axes["upper"], SIGNS[side])
    out[:, rig.index[f"clavicle.{letter}"]] = clavicle
    out[:, rig.index[f"shoulder01.{letter}"]] = scapula
    out[:, rig.index[f"upperarm01.{letter}"]] = np.swapaxes(clavicle @ scapula, -1, -2) @ arm
    upper_back = np.swapaxes(shoulder, -1, -2)
    bent = turn_between(axes["fore"], upper_back @ elbow @ axes["fore"], axes["elbow"])
    hand = np.swapaxes(bent, -1, -2) @ upper_back @ turned[f"{side}_wrist"]
    twist = turn_about(axes["fore"], twist_angle(hand, axes["fore"]) * TWIST_SHARE)
    out[:, rig.index[f"lowerarm01.{letter}"]] = bent
    out[:, rig.index[f"lowerarm02.{letter}"]] = twist
    out[:, rig.index[f"wrist.{letter}"]] = np.swapaxes(twist, -1, -2) @ hand


def find_lift(track: Track, times_s: Sequence[float] | np.ndarray) -> np.ndarray:
    """(T,) the file's unit by which a person is in the air.

    The floor is what is reached both shortly before and shortly after: a jump leaves it, whoever
    climbs a stair or stands on a box does not.
    """
    count = max(1, round(FLIGHT_S * track.rate_hz))
    tolerance = STRIDE_SHARE * track.leg
    out = []
    for time in times_s:
        at = round(time * track.rate_hz)
        at = min(max(at, 0), len(track.lowest) - 1)
        before = track.lowest[max(0, at - count) : at + 1].min()
        after = track.lowest[at : at + count + 1].min()
        out.append(max(0.0, track.lowest[at] - max(before, after) - tolerance))
    return np.array(out)
