"""One body with fingers: what a network of hands finds is put on the body that they belong to.

A network that sees a whole person has a few pixels of each hand; one that sees the hand's own crop
knows its fingers and which way it faces. So part experts are joined into one person, as DOPE does
(Weinzaepfel et al., ECCV 2020), here in the parameters of the body model: the fingers' rotations
are the hand's, and the wrist's is made relative to the forearm that the body has.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from finetune.people import repose_person
from finetune.person import Person

SIDES = ("left", "right")
Wrists = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class JoiningRules:
    """When a hand is put on a body, and how much of it.

    Attributes:
        least_px: side of the hand's box below which its crop shows too little.
        reach: how far the body's wrist may lie from the hand's, in sides of the hand's box.
        stretch: the same in sides of the body's box, for a wrist that nobody but the body's own
            network has seen: that is often far off.
        angle_deg: how far the two networks may disagree on which way the hand faces, before the
            wrist stays as the body has it; from half of that on the two are blended. The crop of
            the hand is nearly always nearer to the truth (docs/bodies.md), so the usual one is
            large.
        bend_deg: largest bend of the wrist against the forearm; what is more is cut.
    """

    least_px: float = 24.0
    reach: float = 0.75
    stretch: float = 0.25
    angle_deg: float = 270.0
    bend_deg: float = 100.0


@dataclass(frozen=True)
class HandMap:
    """Where a hand model's joints are in a body model.

    Attributes:
        wrist: index of the body's wrist.  wrist_of_hand: joints of the hand whose rotations, one
            after the other, are that of the whole up to its wrist.
        fingers: [(joint of the hand, joint of the body), ...].
        forearm: the joint that the forearm twists at, or None where the model has none of its own.
        axis: (3,) from there to the wrist, at rest.
    """

    wrist: int
    wrist_of_hand: tuple[int, ...]
    fingers: tuple[tuple[int, int], ...]
    forearm: int | None = None
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)


def map_hand(body: BodyModel, hand: BodyModel, side: str) -> HandMap | None:
    """Returns where the joints of a hand model (the right one) are on one side of a body model.

    None where the two are not of one make: their axes or rest poses differ then, and the rotations
    of one mean nothing to the other.
    """
    letter = side[0].upper()
    if hand.whole is not hand and hand.whole.name == body.name:
        names = [name.replace(".R", f".{letter}") for name in hand.joint_names]
        wrist, start = body.joint_names.index(f"wrist.{letter}"), 2
        forearm = body.joint_names.index(f"lowerarm02.{letter}")
        axis = _point_along(body, forearm, wrist)
    elif hand.name == "mano" and body.name in ("smplh", "smplx"):
        names = [f"{side}_{name}" for name in hand.joint_names]
        wrist, start = body.joint_names.index(f"{side}_wrist"), 1
        forearm, axis = None, (1.0, 0.0, 0.0)
    else:
        return None
    fingers = [(i, body.joint_names.index(names[i])) for i in range(start, len(names))]
    return HandMap(wrist, tuple(range(start)), tuple(fingers), forearm, axis)


@functools.lru_cache(maxsize=8)
@torch.no_grad()
def _point_along(body: BodyModel, first: int, second: int) -> tuple[float, float, float]:
    """The direction from one joint to another of an average body at rest."""
    device = body.vertex_ids.device
    space = body.shape_space
    shape = torch.full((1, len(space.names)), space.mean, device=device)
    still = torch.zeros(1, len(body.joint_names), 3, device=device)
    _, joints = body(still, torch.zeros(1, 3, device=device), shape)
    x, y, z = torch.nn.functional.normalize(joints[0, second] - joints[0, first], dim=0).tolist()
    return x, y, z


def join_hands(
    people: Sequence[Person],
    body: BodyModel,
    hand: BodyModel,
    rules: JoiningRules | None = None,
    wrists: Sequence[Wrists] | None = None,
) -> list[Person]:
    """Return people with each hand put on the body that it belongs to.

    A hand that fits no body, or whose crop is too small, stays a person of its own.

    Args:
        people: bodies of ``body`` and hands of ``hand``, in one camera.
        rules: None: the usual ones.
        wrists: of each of ``people`` {side: (2,) pixels}, where a finder saw its wrists; None, or a
            side that is absent: the network's own are taken.
    """
    rules = rules or JoiningRules()
    maps = {side: map_hand(body, hand, side) for side in SIDES}
    taken = pair_hands(people, body, hand, rules, wrists) if all(maps.values()) else {}
    out = []
    for place, person in enumerate(people):
        mine = {side: people[taken[place, side]] for side in SIDES if (place, side) in taken}
        if mine:
            out.append(_join(person, mine, body, maps, rules))
        elif place not in taken.values():
            out.append(person)
    return out


def pair_hands(
    people: Sequence[Person],
    body: BodyModel,
    hand: BodyModel,
    rules: JoiningRules,
    wrists: Sequence[Wrists] | None = None,
) -> dict[tuple[int, str], int]:
    """Return {(place of a body, side): place of its hand}, the nearest wrists first."""
    found = []
    of_hand = hand.keypoint_names.index("wrist")
    for place, person in enumerate(people):
        side = person.kind.partition("_")[0]
        if side not in SIDES or person.pose is None:
            continue
        longer = float(max(person.box[2:] - person.box[:2]))
        if longer < rules.least_px:
            continue
        wrist = person.keypoints_2d[of_hand]
        for other, owner in enumerate(people):
            if owner.kind != "body" or owner.pose is None:
                continue
            seen = {} if wrists is None else wrists[other]
            own = owner.keypoints_2d[body.keypoint_names.index(f"{side}_wrist")]
            reach = rules.reach * longer
            if side not in seen:
                reach = max(reach, rules.stretch * float(max(owner.box[2:] - owner.box[:2])))
            apart = float(np.linalg.norm(seen.get(side, own) - wrist))
            if apart <= reach:
                found.append((apart / longer, other, side, place))
    taken: dict[tuple[int, str], int] = {}
    for _, owner, side, place in sorted(found):
        if (owner, side) not in taken and place not in taken.values():
            taken[owner, side] = place
    return taken


@torch.no_grad()
def _join(
    person: Person,
    hands: Mapping[str, Person],
    body: BodyModel,
    maps: Mapping[str, HandMap | None],
    rules: JoiningRules,
) -> Person:
    """A body with the hands of one or both of its sides."""
    if person.pose is None or person.shape is None:
        raise ValueError("a person without parameters has no fingers to be set")
    pose = torch.from_numpy(person.pose).clone()
    for side, found in hands.items():
        there = maps[side]
        if there is None or found.pose is None:
            raise ValueError(f"the {side} hand's joints are not known on {body.name}")
        _put_hand(pose, torch.from_numpy(found.pose), there, body.parents, rules)
    joined = repose_person(person, body, pose.numpy(), person.shape, person.translation)
    return replace(joined, hands=tuple(side for side in SIDES if side in hands))


def _put_hand(
    pose: torch.Tensor,
    found: torch.Tensor,
    there: HandMap,
    parents: Sequence[int],
    rules: JoiningRules,
) -> None:
    """Write a hand's rotations into a body's (J, 3, 3)."""
    for of_hand, of_body in there.fingers:
        pose[of_body] = found[of_hand]
    facing = torch.eye(3)
    for joint in there.wrist_of_hand:
        facing = facing @ found[joint]
    forearm = chain_turns(pose, parents[there.wrist], parents)
    wanted = forearm.T @ facing
    change = matrix_to_axis_angle(pose[there.wrist].T @ wanted)
    share = blend_share(float(torch.rad2deg(change.norm())), rules.angle_deg)
    _bend_wrist(pose, pose[there.wrist] @ axis_angle_to_matrix(share * change), there, rules)


def face_hand(
    pose: torch.Tensor,
    facing: torch.Tensor,
    there: HandMap,
    parents: Sequence[int],
    rules: JoiningRules,
) -> None:
    """Turn the wrist and the forearm of a body's (J, 3, 3) so that a hand faces a way (3, 3)."""
    forearm = chain_turns(pose, parents[there.wrist], parents)
    _bend_wrist(pose, forearm.T @ facing, there, rules)


def chain_turns(pose: torch.Tensor, joint: int, parents: Sequence[int]) -> torch.Tensor:
    """Return (3, 3) the rotations of a body's (J, 3, 3) one after the other, up to a joint's."""
    turned = torch.eye(3)
    while joint >= 0:
        turned = pose[joint] @ turned
        joint = parents[joint]
    return turned


def _bend_wrist(
    pose: torch.Tensor, wanted: torch.Tensor, there: HandMap, rules: JoiningRules
) -> None:
    """Give the wrist a rotation (3, 3) against the forearm, as far as one bends."""
    if there.forearm is not None:
        # A wrist bends; what twists is the forearm.
        twist = find_twist(wanted, torch.tensor(there.axis))
        pose[there.forearm] = pose[there.forearm] @ twist
        wanted = twist.T @ wanted
    bent = matrix_to_axis_angle(wanted)
    bend = float(torch.rad2deg(bent.norm()))
    if bend > rules.bend_deg:
        bent = bent * (rules.bend_deg / bend)
    pose[there.wrist] = axis_angle_to_matrix(bent)


def find_twist(rotation: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """Returns the rotation (3, 3) about an axis (3,) that a rotation (3, 3) begins with.

    The rest, a bend, then has its own axis across it (swing and twist of a quaternion); where the
    rotation is a bend by half a turn, the twist is none.
    """
    vector = matrix_to_axis_angle(rotation)
    angle = vector.norm().clamp_min(1e-9)
    along = float(vector @ axis / angle)
    half = float(angle) / 2
    turn = 2 * np.arctan2(along * np.sin(half), np.cos(half))
    return axis_angle_to_matrix(axis * float(turn))


def blend_share(apart_deg: float, most_deg: float) -> float:
    """Returns how much the hand's word on the wrist counts, 1 to 0, by how far the two differ."""
    half = most_deg / 2
    return float(np.clip((most_deg - apart_deg) / max(half, 1e-9), 0.0, 1.0))
