"""``python -m finetune referee RUN samples=DIR``: finds people, asks the run, counts, draws."""

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.sources.frames import Unreadable
from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.logging import progress, report
from engine.logging.console import get_logger
from engine.run.files import make_folder, write_file
from finetune.inference.predictor import Predictor, check_intrinsics
from finetune.referee import sheets, tables
from finetune.referee.clips import ClipFrames, find_in_clip, fit_cameras, open_clip
from finetune.referee.config import RefereeConfig
from finetune.referee.curve import draw_curve, list_steps, open_checkpoints, trace_curve
from finetune.referee.judge import JudgedPerson, judge_takes, score_person
from finetune.referee.kinds import KINDS
from finetune.referee.lens import Correct, correct_clip
from finetune.referee.rows import BESIDE, RUN, Rows, name_rows
from finetune.referee.synthetic import judge_synthetic
from finetune.referee.takes import SampleClip, list_clips
from finetune.referee.truth import Seen

RESULTS, CURVE = "referee.json", "curve"

log = get_logger(__name__)


def main(argv: list[str]) -> int:
    """Judge a run and write RESULTS, tables and sheets; returns the exit code."""
    config, _ = parse_keys(RefereeConfig, argv, "finetune referee")
    predictor = Predictor(config.run, config.device).require_mesh("referee")
    kind = KINDS[predictor.body.kind]
    beside = open_beside(config, predictor)
    compared = {f"{BESIDE}{name}": other for name, other in beside.items()}
    others = open_checkpoints(predictor, config.device) if config.checkpoints else {}
    rows = Rows(kind, predictor, compared | others, config.prompts)
    folder = Path(config.out or predictor.folder / "referee")
    make_folder(folder, f"out={folder}")
    clips = _choose_clips(config)
    # First, for what is wrong with it is told at once.
    made = judge_synthetic(config, rows, folder) if config.synthetic else []
    people = judge_clips(config, rows, clips, folder)
    if not people:
        raise UserError(f"samples={','.join(config.samples)}: no {kind.words} were found in there")
    takes = judge_takes(kind, people)
    judged = tables.Judged(kind, name_rows(list(beside), kind), people, takes, made)
    command = "python -m finetune referee " + shlex.join(argv)
    results = tables.summarise(judged, command, predictor.step)
    write_file(folder / RESULTS, json.dumps(results, indent=1))
    print(tables.describe(results))
    if config.checkpoints:
        _write_curve(folder, judged, list_steps(predictor, others), predictor.config.batch)
    print(f"wrote {folder}")
    return 0


def _write_curve(folder: Path, judged: tables.Judged, steps: Mapping[str, int], batch: int) -> None:
    """Write CURVE and its image."""
    groups = judged.groups() | {"synthetic": judged.synthetic}
    curve = trace_curve(groups, steps, batch)
    write_file(folder / f"{CURVE}.json", json.dumps(curve, indent=1))
    write_file(folder / f"{CURVE}.png", draw_curve(curve, judged.kind))


def open_beside(config: RefereeConfig, predictor: Predictor) -> dict[str, Predictor]:
    """{shortest name that tells it apart: Predictor} of ``beside=``.

    Raises:
        UserError: one of them recovers something else than the run; one is named twice.
    """
    names = report.names([config.run, *config.beside])[1:]
    found = {}
    for name, path in zip(names, config.beside, strict=True):
        other = Predictor(path, config.device, "beside").require_mesh("referee")
        if other.body.kind != predictor.body.kind:
            raise UserError(
                f"beside={path} recovers a {other.body.kind}, run={config.run} a "
                f"{predictor.body.kind}"
            )
        found[name] = other
    return found


def _choose_clips(config: RefereeConfig) -> list[SampleClip]:
    clips = list_clips(config.samples)
    names = {clip.name for clip in clips}
    unknown = sorted(set(config.leave_out) - names)
    if unknown:
        raise UserError(f"leave_out={unknown[0]} is none of {', '.join(sorted(names))}")
    kept = [clip for clip in clips if clip.name not in config.leave_out]
    if not kept:
        raise UserError(
            f"leave_out={','.join(config.leave_out)} leaves nothing of "
            f"samples={','.join(config.samples)}"
        )
    fit_cameras(kept)
    return kept


def judge_clips(
    config: RefereeConfig, rows: Rows, clips: Sequence[SampleClip], folder: Path
) -> list[JudgedPerson]:
    """Everybody in the clips, by keypoints and outlines; draws sheets on the way.

    Raises:
        UserError: not one of the clips can be read.
    """
    truth_folder = config.truth or str(folder / "truth")
    make_folder(truth_folder, f"truth={truth_folder}")
    judged: list[JudgedPerson] = []
    broken = []
    for clip in progress.watched(clips, "clip"):
        try:
            source = open_clip(clip, config.every)
        except Unreadable as error:
            broken.append(f"{clip.path}: {error}")
            log.warning(f"skipped {broken[-1]}")
            continue
        found = find_in_clip(config, rows.kind, source, truth_folder)
        people, correct = correct_clip(clip, found)
        by_frame = _group_frames(people)
        part, tiles = _judge_clip(rows, clip, source, by_frame, correct, config.sheets)
        sheets.save_tiles(folder / "sheets", clip.name, tiles)
        judged += part
    if len(broken) == len(clips):
        raise UserError(f"none of {len(clips)} clips can be read; the first: {broken[0]}")
    return judged


def _group_frames(people: Sequence[Seen]) -> dict[int, list[Seen]]:
    by_frame: dict[int, list[Seen]] = defaultdict(list)
    for seen in people:
        by_frame[seen.frame].append(seen)
    return by_frame


def _judge_clip(
    rows: Rows,
    clip: SampleClip,
    source: ClipFrames,
    by_frame: Mapping[int, Sequence[Seen]],
    correct: Correct,
    draw: bool,
) -> tuple[list[JudgedPerson], list[np.ndarray]]:
    """Everybody of a clip, with what keypoints and outlines say, and their tiles if wanted."""
    known = None if clip.camera is None else clip.camera.K
    K = check_intrinsics(known, source.width, source.height)
    judged, tiles = [], []
    for number, shown in source.read(sorted(by_frame)):
        image, people = correct(shown), by_frame[number]
        for seen, answers in zip(people, rows.answer(image, K, people), strict=True):
            person = score_person(rows.kind, clip, seen, answers, rows.run.faces)
            if draw:
                tiles.append(sheets.draw_person(image, K, person, rows.kind))
            answers[RUN].vertices = None  # the meshes of thousands need not be kept
            judged.append(person)
    return judged, tiles
