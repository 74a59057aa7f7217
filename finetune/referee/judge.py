"""How far off each row is on each person: by what was found in its image and by other cameras."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.sources.tables import read_timestamps
from finetune.referee import scores
from finetune.referee.kinds import Kind
from finetune.referee.rows import Answer
from finetune.referee.takes import SampleClip, Triangulated, triangulate_joints
from finetune.referee.truth import Seen

SAME_PERSON = 0.08  # median error of triangulated joints, of a box's side, that is one person's


@dataclass
class JudgedPerson:
    """One person or hand of one frame with what the rows said and how far off they were.

    Attributes:
        clip, seen: who.  standing: scores.is_standing, of bodies.
        answers: {row: Answer}.
        values: {row: {metric: number}}, NaN where a metric says nothing.
        joints: {row: (2, n) hits}.
        faces: (F, 3) of the run's mesh.
    """

    clip: SampleClip
    seen: Seen
    standing: bool
    answers: dict[str, Answer]
    faces: np.ndarray
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    joints: dict[str, np.ndarray] = field(default_factory=dict)


def score_person(
    kind: Kind, clip: SampleClip, seen: Seen, answers: dict[str, Answer], faces: np.ndarray
) -> JudgedPerson:
    """What keypoints and outline say of one person."""
    standing = not seen.side and scores.is_standing(seen)
    person = JudgedPerson(clip, seen, standing, answers, faces)
    for row, answer in answers.items():
        hits = scores.hits(answer.points, seen)
        iou = float("nan")
        if answer.outline is not None:
            iou = scores.outline_iou(answer.outline, seen)
        person.joints[row] = hits
        person.values[row] = {
            "pck_0.1": _mean(hits[0]),
            "pck_0.2": _mean(hits[1]),
            "iou": iou,
            "facing_2d": kind.flat(answer.points, seen),
        }
    return person


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def judge_takes(kind: Kind, judged: Sequence[JudgedPerson]) -> dict[str, Triangulated]:
    """Add what the calibrated cameras say: 3D errors, facing, hits in the other cameras."""
    takes: dict[str, list[JudgedPerson]] = defaultdict(list)
    for person in judged:
        if person.clip.camera is not None:
            takes[person.clip.take].append(person)
    found = {}
    for take, people in takes.items():
        instants = group_instants(people)
        result = Triangulated()
        for instant, views in sorted(instants.items()):
            _judge_instant(kind, instant, list(views.values()), result)
        found[take] = result
    return found


def group_instants(
    people: Sequence[JudgedPerson],
) -> dict[tuple[int, str], dict[str, JudgedPerson]]:
    """{(instant, side of a hand or ""): {camera: the largest one there}}.

    By the take's timestamps if it has them, else a frame's number is its instant.
    """
    folder = os.path.dirname(people[0].clip.path)
    stamps = os.path.join(folder, "timestamps.csv")
    shown: dict[str, dict[int, int]] = {}
    if os.path.exists(stamps):
        for name, frames in read_timestamps(stamps)[1].items():
            shown[name.removeprefix("cam_")] = {frame: at for at, frame in frames.items()}
    out: dict[tuple[int, str], dict[str, JudgedPerson]] = defaultdict(dict)
    for person in people:
        camera = person.clip.camera
        assert camera is not None
        at = shown.get(camera.name.removeprefix("cam_"))
        instant = person.seen.frame if at is None else at.get(person.seen.frame)
        if instant is None:
            continue
        views = out[instant, person.seen.side]
        other = views.get(camera.name)
        if other is None or person.seen.side_px > other.seen.side_px:
            views[camera.name] = person
    return out


def _judge_instant(
    kind: Kind, instant: tuple[int, str], people: Sequence[JudgedPerson], result: Triangulated
) -> None:
    if len(people) < 2:
        return
    triples = [(p.clip.camera, p.seen.joints, p.seen.side_px) for p in people]
    joints, pixels, shares = triangulate_joints(
        [(camera, points, side) for camera, points, side in triples if camera], scores.SURE
    )
    if not shares or np.median(shares) > SAME_PERSON:
        return  # not one person, or not seen well enough to judge by
    result.joints[instant] = joints
    result.errors_px += pixels
    result.errors_box += shares
    for person in people:
        camera = person.clip.camera
        assert camera is not None
        local = joints @ camera.Rt[:, :3].T + camera.Rt[:, 3]
        for row, answer in person.answers.items():
            person.values[row] |= compare_joints(kind, answer.joints, local)
            if np.isfinite(joints).all():
                hits = _hits_of_others(kind, answer.joints, local, person, people)
                person.values[row]["pck_others"] = hits


def compare_joints(kind: Kind, found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """{metric: number} of joints (n, 3) in one camera's frame; facing where all true are known."""
    plain, aligned = scores.joint_errors_mm(found, true, kind.roots)
    values = {"mpjpe": plain, "pa_mpjpe": aligned}
    if np.isfinite(true).all():
        values["facing"] = scores.faces_right(kind.front(found), kind.front(true))
    return values


def _hits_of_others(
    kind: Kind,
    found: np.ndarray,
    local: np.ndarray,
    person: JudgedPerson,
    people: Sequence[JudgedPerson],
) -> float:
    """PCK@0.2 in the other cameras, after the roots are put where they are."""
    camera = person.clip.camera
    assert camera is not None
    roots = list(kind.roots)
    placed = found - found[roots].mean(0) + local[roots].mean(0)
    world = (placed - camera.Rt[:, 3]) @ camera.Rt[:, :3]
    shares = []
    for other in people:
        lens = other.clip.camera
        if other is person or lens is None:
            continue
        at = (world @ lens.Rt[:, :3].T + lens.Rt[:, 3]) @ lens.K.T
        hits = scores.hits(at[:, :2] / np.maximum(at[:, 2:], 1e-6), other.seen)
        shares.append(_mean(hits[1]))
    return _mean(np.array(shares))
