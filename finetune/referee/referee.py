"""``python -m finetune referee RUN samples=DIR``: finds people, asks the run, counts, draws."""

import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.find.finder import open_finder
from data.sources.frames import Frames, Unreadable, open_video
from data.sources.tables import read_timestamps
from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import write_file
from finetune.inference.images import read_image
from finetune.inference.predictor import Predictor, check_intrinsics
from finetune.referee import scores, sheets, tables
from finetune.referee.config import RefereeConfig
from finetune.referee.rows import ROWS, Answer, Rows
from finetune.referee.takes import (
    SampleClip,
    Triangulated,
    fit_camera,
    list_clips,
    triangulate_joints,
)
from finetune.referee.truth import Seen, find_people_of, load_truth, save_truth, truth_name

SAME_PERSON = 0.08  # median error of triangulated joints, of a box's side, that is one person's
RESULTS = "referee.json"

log = get_logger(__name__)


@dataclass
class JudgedPerson:
    """One person of one frame with what the rows said and how far off they were.

    Attributes:
        clip, seen: who.  standing: scores.is_standing.
        answers: {row: Answer}.
        values: {row: {metric: number}}, NaN where a metric says nothing.
        joints: {row: (2, 12) hits}.
        faces: (F, 3) of the run's mesh.
    """

    clip: SampleClip
    seen: Seen
    standing: bool
    answers: dict[str, Answer]
    faces: np.ndarray
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    joints: dict[str, np.ndarray] = field(default_factory=dict)


def main(argv: list[str]) -> int:
    """Judge a run and write RESULTS, a table and sheets; returns the exit code."""
    config, _ = parse_keys(RefereeConfig, argv, "finetune referee")
    predictor = Predictor(config.run, config.device)
    if predictor.body.kind != "body":
        raise UserError(f"run={config.run} recovers hands; the referee judges bodies")
    folder = Path(config.out or predictor.folder / "referee")
    clips = _choose_clips(config)
    judged, found_takes = judge_clips(config, predictor, clips, folder)
    if not judged:
        raise UserError(f"samples={','.join(config.samples)}: nobody was found in there")
    command = "python -m finetune referee " + shlex.join(argv)
    results = tables.summarise(judged, found_takes, command, predictor.step)
    write_file(folder / RESULTS, json.dumps(results, indent=1))
    print(tables.describe(results))
    print(f"wrote {folder}")
    return 0


def _choose_clips(config: RefereeConfig) -> list[SampleClip]:
    clips = list_clips(config.samples)
    names = {clip.name for clip in clips}
    unknown = sorted(set(config.leave_out) - names)
    if unknown:
        raise UserError(f"leave_out={unknown[0]} is none of {', '.join(sorted(names))}")
    return [clip for clip in clips if clip.name not in config.leave_out]


def judge_clips(
    config: RefereeConfig, predictor: Predictor, clips: Sequence[SampleClip], folder: Path
) -> tuple[list[JudgedPerson], dict[str, Triangulated]]:
    """(all judged people, what was triangulated of each take); draws sheets on the way."""
    truth_folder = config.truth or str(folder / "truth")
    os.makedirs(truth_folder, exist_ok=True)
    rows = Rows(predictor)
    judged: list[JudgedPerson] = []
    for clip in progress.watched(clips, "clip"):
        try:
            source = _open(clip, config.every)
        except Unreadable as error:
            log.warning(f"skipped {clip.path}: {error}")
            continue
        fit_camera(clip, source.width, source.height)
        people = _find(config, clip, source, truth_folder)
        part = _judge(rows, clip, source, people)
        if config.sheets:
            sheets.draw_clip(folder / "sheets", clip, source.read(_frames_of(people)), part)
        for person in part:  # drawn: the meshes of thousands need not be kept
            person.answers["model"].vertices = None
        judged += part
    return judged, _judge_takes(judged)


@dataclass
class _Source:
    """A video or an image as numbered frames."""

    path: str
    width: int
    height: int
    frames: list[int]
    video: Frames | None = None

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8)."""
        if self.video is not None:
            yield from self.video.get(frames)
        elif frames:
            yield 0, read_image(self.path)


def _open(clip: SampleClip, every: int) -> _Source:
    if clip.is_image:
        height, width = read_image(clip.path).shape[:2]
        return _Source(clip.path, width, height, [0])
    video = open_video(clip.path)
    frames = list(range(0, video.count, every))
    return _Source(clip.path, video.width, video.height, frames, video)


def _find(
    config: RefereeConfig, clip: SampleClip, source: _Source, truth_folder: str
) -> list[Seen]:
    """The people of a clip, from the folder where they were found before."""
    salt = {"score": config.least_score, "side": config.least_side_px}
    path = os.path.join(truth_folder, truth_name(clip.path, source.frames, salt))
    if os.path.exists(path):
        try:
            return load_truth(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning(f"{path} cannot be read ({error}): its people are found again")
    finder = open_finder(masks=True, hands=False)
    frames = source.read(source.frames)
    people = find_people_of(frames, finder, config.least_score, config.least_side_px)
    save_truth(path, people)
    return people


def _frames_of(people: Sequence[Seen]) -> list[int]:
    return sorted({seen.frame for seen in people})


def _judge(
    rows: Rows, clip: SampleClip, source: _Source, people: Sequence[Seen]
) -> list[JudgedPerson]:
    """Everybody of a clip, with what keypoints and outlines say."""
    by_frame: dict[int, list[Seen]] = defaultdict(list)
    for seen in people:
        by_frame[seen.frame].append(seen)
    known = None if clip.camera is None else clip.camera.K
    K = check_intrinsics(known, source.width, source.height)
    judged = []
    for number, image in source.read(sorted(by_frame)):
        answers = rows.answer(image, K, by_frame[number])
        for seen, answer in zip(by_frame[number], answers, strict=True):
            judged.append(_score(clip, seen, answer, rows.faces))
    return judged


def _score(
    clip: SampleClip, seen: Seen, answers: dict[str, Answer], faces: np.ndarray
) -> JudgedPerson:
    person = JudgedPerson(clip, seen, scores.is_standing(seen), answers, faces)
    for row in ROWS:
        answer = answers[row]
        hits = scores.hits(answer.points, seen)
        iou = float("nan")
        if answer.outline is not None:
            iou = scores.outline_iou(answer.outline, seen)
        person.joints[row] = hits
        person.values[row] = {
            "pck_0.1": _mean(hits[0]),
            "pck_0.2": _mean(hits[1]),
            "iou": iou,
            "facing_2d": scores.faces_right_flat(answer.points, seen),
        }
    return person


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _judge_takes(judged: Sequence[JudgedPerson]) -> dict[str, Triangulated]:
    """Add what the calibrated cameras say: 3D errors, facing, hits in the other cameras."""
    takes: dict[str, list[JudgedPerson]] = defaultdict(list)
    for person in judged:
        if person.clip.camera is not None:
            takes[person.clip.take].append(person)
    found = {}
    for take, people in takes.items():
        instants = _group_instants(people)
        result = Triangulated()
        for instant, views in sorted(instants.items()):
            _judge_instant(instant, views, result)
        found[take] = result
    return found


def _group_instants(people: Sequence[JudgedPerson]) -> dict[int, dict[str, JudgedPerson]]:
    """{instant: {camera: the largest person there}}, by the take's timestamps if it has them."""
    folder = os.path.dirname(people[0].clip.path)
    stamps = os.path.join(folder, "timestamps.csv")
    shown: dict[str, dict[int, int]] = {}
    if os.path.exists(stamps):
        for name, frames in read_timestamps(stamps)[1].items():
            shown[name.removeprefix("cam_")] = {frame: at for at, frame in frames.items()}
    out: dict[int, dict[str, JudgedPerson]] = defaultdict(dict)
    for person in people:
        camera = person.clip.camera
        assert camera is not None
        at = shown.get(camera.name.removeprefix("cam_"))
        instant = person.seen.frame if at is None else at.get(person.seen.frame)
        if instant is None:
            continue
        other = out[instant].get(camera.name)
        if other is None or _side(person.seen) > _side(other.seen):
            out[instant][camera.name] = person
    return out


def _side(seen: Seen) -> float:
    return float((seen.box[2:] - seen.box[:2]).max())


def _judge_instant(instant: int, views: dict[str, JudgedPerson], result: Triangulated) -> None:
    people = list(views.values())
    if len(people) < 2:
        return
    triples = [(p.clip.camera, p.seen.joints, _side(p.seen)) for p in people]
    joints, pixels, shares = triangulate_joints(
        [(camera, points, side) for camera, points, side in triples if camera], scores.SURE
    )
    if not shares or np.median(shares) > SAME_PERSON:
        return  # not one person, or not seen well enough to judge by
    result.joints[instant] = joints
    result.errors_px += pixels
    result.errors_box += shares
    whole = np.isfinite(joints).all()
    for person in people:
        camera = person.clip.camera
        assert camera is not None
        local = joints @ camera.Rt[:, :3].T + camera.Rt[:, 3]
        for row in ROWS:
            found = person.answers[row].joints
            values = person.values[row]
            values["mpjpe"], values["pa_mpjpe"] = scores.joint_errors_mm(found, local)
            if whole:
                values["facing"] = scores.faces_right(found, local)
                values["pck_others"] = _hits_of_others(found, local, person, people)


def _hits_of_others(
    found: np.ndarray, local: np.ndarray, person: JudgedPerson, people: Sequence[JudgedPerson]
) -> float:
    """PCK@0.2 in the other cameras, after the hips are put where they are."""
    camera = person.clip.camera
    assert camera is not None
    hips = [scores.LEFT_HIP, scores.RIGHT_HIP]
    placed = found - found[hips].mean(0) + local[hips].mean(0)
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
