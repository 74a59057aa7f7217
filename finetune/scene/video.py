"""``predict`` of a video by a network that finds everybody in each of its frames."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data.sources.frames import Frames
from data.sources.index_store import digest_video
from engine.errors import UserError
from engine.logging import progress
from engine.pipeline import Pipeline, Seconds, count_seconds
from engine.run.files import make_folder
from engine.run.locks import claim_folder
from finetune.animation.track import Take
from finetune.inference.image_camera import CameraFinder, ImageCamera
from finetune.scene.everybody import Everybody
from finetune.scene.floor import find_floor
from finetune.scene.follow import follow_people
from finetune.scene.found import FoundPerson
from finetune.verb_config import PredictFilesConfig
from finetune.video.asked import Who
from finetune.video.command import (
    open_frames,
    show_stretches,
    smooth_by_keys,
    word_seconds,
    write_take,
)
from finetune.video.parts import Parts, digest_words, split_stretches
from finetune.video.recover import Rows, Shown, join_rows, pack_people
from finetune.video.settle import make_take


def predict_scene_video(
    path: str,
    config: PredictFilesConfig,
    everybody: Everybody,
    finder: CameraFinder,
    seconds: Seconds | None = None,
) -> list[Path]:
    """Recover everybody in a video and write them; returns the files.

    What is done is kept in OUT/STEM.parts, so that the same command goes on where it was stopped.

    Args:
        finder: of its camera; a video's file tells no focal length.
        seconds: to which those of each stage are added.
    Raises:
        UserError: it cannot be read, or nobody is in it.
    """
    seconds = defaultdict(float) if seconds is None else seconds
    stem = Path(config.out) / Path(path).stem
    folder = stem.with_name(f"{stem.name}.parts")
    make_folder(folder, f"out={config.out}")
    with claim_folder(folder, f"out={config.out}"):
        start = time.perf_counter()
        with count_seconds(seconds, "index"):
            frames = open_frames(path, folder)
        camera = finder.find_camera(path, frames.width, frames.height, photograph=False)
        print(f"{path}: {camera.describe()}")
        rows = _find_rows(frames, folder, config, everybody, camera, seconds)
        take = _follow(rows, frames, config, everybody, camera)
        floor = find_floor(take)
        take.floor = floor.corners
        print(f"{path}: {len(take.tracks)} people; floor {floor.words}")
        written = write_take(take, frames, folder, stem, config, seconds)
        spent = time.perf_counter() - start
        print(f"{path}: {word_seconds(frames.count, spent, seconds)}")
    return written


def _find_rows(
    frames: Frames,
    folder: Path,
    config: PredictFilesConfig,
    everybody: Everybody,
    camera: ImageCamera,
    seconds: Seconds,
) -> Rows:
    """Everybody in all frames; stretches that are kept are not looked at again."""
    K = camera.K if camera.known else None
    length = config.video.stretch
    seen = (digest_video(frames.path), camera.K.tolist(), camera.known, camera.list_lens())
    parts = Parts(folder, digest_words(seen, everybody.digest, length))
    parts.clear_others()
    spans = split_stretches(frames.count, length)
    found = {stretch: rows for stretch in spans if (rows := parts.load(stretch)) is not None}
    wanted = {stretch: list(span) for stretch, span in spans.items() if stretch not in found}
    stages = {"network": partial(_ask_frames, everybody=everybody, K=K)}
    with progress.bar(frames.count, "frame", description="recovering") as bar:
        bar.update(sum(len(spans[stretch]) for stretch in found))
        shown = show_stretches(frames, wanted, camera.correct_image)
        with Pipeline(stages, config.video.threads, seconds).run("decode", shown, "save") as done:
            for stretch, rows in done:
                parts.save(stretch, rows)
                found[stretch] = rows
                bar.update(len(spans[stretch]))
    listed = [found[stretch]["body"] for stretch in spans if "body" in found[stretch]]
    if not listed:
        raise UserError(f"{frames.path}: nobody was found in it")
    return join_rows(listed)


def _ask_frames(
    shown: Iterator[Shown], everybody: Everybody, K: np.ndarray | None
) -> Iterator[tuple[int, dict[str, Rows]]]:
    """Yield the rows of each stretch; whose they are is found out once all are known."""
    waiting: list[tuple[int, FoundPerson]] = []
    for one in shown:
        waiting += [(one.number, person) for person in everybody.find(one.image, K)]
        if one.is_last:
            yield one.stretch, _pack(waiting, everybody)
            waiting = []


def _pack(found: list[tuple[int, FoundPerson]], everybody: Everybody) -> dict[str, Rows]:
    if not found:
        return {}
    people = [one for _, one in found]
    rows = pack_people(
        [one.person for one in people],
        everybody.body,
        who=[-1] * len(people),
        frames=[frame for frame, _ in found],
        scores=[one.score for one in people],
        keypoints=[None] * len(people),
        embeddings=[one.embedding for one in people],
    )
    return {"body": rows}


def _follow(
    rows: Rows,
    frames: Frames,
    config: PredictFilesConfig,
    everybody: Everybody,
    camera: ImageCamera,
) -> Take:
    """The tracks of everybody, each with one shape, smoothed."""
    who = follow_people(rows, frames.times, config.video.lost_s)
    listed = [Who(str(number)) for number in range(int(who.max()) + 1)]
    take = make_take(
        frames.path,
        frames.times,
        (frames.width, frames.height),
        camera.K,
        {"body": replace(rows, who=who)},
        listed,
        {"body": everybody.body},
    )
    # Nobody searched for keypoints.
    take.tracks = [replace(track, found=None) for track in take.tracks]
    take = smooth_by_keys(take, config.video)
    take.focal_from, take.correct_image = camera.source, camera.correct_image
    return take
