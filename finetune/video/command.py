"""``predict`` of a video: searched, recovered, drawn, and written in files of animation."""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.bodies.base import BodyModel
from data.find.config import FindConfig
from data.find.detection import Detection, HandDetection, Tracks
from data.find.search import Run, check_ready, sample_frames, search_videos
from data.find.store import index_store
from data.sources.detections.reading import read_detections
from data.sources.frames import Frames
from data.sources.index_store import digest_video
from data.sources.listing import VIDEO_SUFFIXES
from data.sources.probe import Problems, probe_videos
from engine.distributed.process_group import share_cores
from engine.errors import UserError
from engine.logging import progress
from engine.pipeline import Seconds, count_seconds
from engine.run.files import make_folder
from engine.run.locks import claim_folder
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take
from finetune.fit.refine import make_keys
from finetune.inference.fingers import JoiningRules
from finetune.inference.image_camera import CameraFinder, ImageCamera
from finetune.inference.lens import LensReader
from finetune.inference.predictor import Predictor
from finetune.inference.search import WORDS
from finetune.temporal.mend import check_module, mend_take
from finetune.temporal.module_file import MotionModule, locate_module
from finetune.temporal.one_euro import Cutoff
from finetune.temporal.smooth import smooth_take
from finetune.verb_config import PredictFilesConfig, VideoConfig
from finetune.video.asked import Plan, Who, plan_crops
from finetune.video.drawing import draw_films, read_frames
from finetune.video.focal import estimate_video_camera
from finetune.video.hands import hold_hands
from finetune.video.maps import MAPS
from finetune.video.outlines import Outliner
from finetune.video.parts import Parts, digest_network, digest_words, split_stretches
from finetune.video.recover import Recoverer, Rows, Shown, join_rows
from finetune.video.refine import TakeRefiner, measure_take
from finetune.video.settle import make_take

MOST_WORKERS = 16  # processes that search, each with networks of its own


def is_video(path: str) -> bool:
    """Whether a path is named as a video is."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def check_videos(config: PredictFilesConfig, predictors: Mapping[str, Predictor]) -> None:
    """Say what a video cannot be asked for before any is read.

    Raises:
        UserError: an unknown format, a network without a mesh, a motion module of another body,
            keys of images alone.
    """
    for predictor in predictors.values():
        predictor.require_mesh("predict of a video")
    check_files(config, {kind: predictor.body for kind, predictor in predictors.items()})
    if config.whole_image and len(predictors) > 1:
        raise UserError(
            "whole_image=true, but both bodies and hands would be recovered: name one by run="
        )


def check_files(config: PredictFilesConfig, bodies: Mapping[str, BodyModel]) -> None:
    """Say what of a video cannot be written.

    Args:
        bodies: {"body", "hand": the full body model} of who is recovered.
    Raises:
        UserError: an unknown format or map, a motion module of another body.
    """
    for name in config.formats:
        FORMATS.find(name)
    for name in config.video.maps:
        if name not in MAPS:
            raise UserError(f"video.maps={name} is none of {', '.join(MAPS)}")
    if config.video.smooth == "learned" and "body" in bodies:
        module = _open_module(config.video)
        check_module(module, bodies["body"], "video.motion=" + config.video.motion)


def predict_video(
    path: str,
    config: PredictFilesConfig,
    predictors: Mapping[str, Predictor],
    finder: CameraFinder,
    seconds: Seconds | None = None,
    lens: LensReader | None = None,
) -> list[Path]:
    """Recover the people of a video and write them; returns the files.

    What is done is kept in OUT/STEM.parts, so that the same command goes on where it was stopped.

    Args:
        finder: of its camera; a video's file tells no focal length.
        seconds: to which those of each stage are added.
        lens: what tells it by the people, where ``finder`` does not know it.
    Raises:
        UserError: it cannot be read, or nobody is in it.
    """
    seconds = defaultdict(float) if seconds is None else seconds
    stem = Path(config.out) / Path(path).stem
    folder = stem.with_name(f"{stem.name}.parts")
    make_folder(folder, f"out={config.out}")
    with claim_folder(folder, f"out={config.out}"):
        return _predict_in(folder, stem, path, config, predictors, finder, seconds, lens)


def _predict_in(
    folder: Path,
    stem: Path,
    path: str,
    config: PredictFilesConfig,
    predictors: Mapping[str, Predictor],
    finder: CameraFinder,
    seconds: Seconds,
    lens: LensReader | None,
) -> list[Path]:
    """``predict_video`` in a folder that nobody else works in. ``stem``: of the files' names."""
    start = time.perf_counter()
    with count_seconds(seconds, "index"):
        frames = open_frames(path, folder)
    camera = finder.find_camera(path, frames.width, frames.height, photograph=False)
    if camera.known or lens is None:
        print(f"{path}: {camera.describe()}")
    with count_seconds(seconds, "search"):
        tracks = _find_people(frames, folder, config, list(predictors))
    is_searched = not (config.whole_image or config.boxes)
    last = sample_frames(frames.times, config.video.search_hz)[-1] if is_searched else None
    plan, everybody = plan_crops(tracks, frames.times, list(predictors), config.least_score, last)
    if config.side:
        other = "left_hand" if config.side == "right" else "right_hand"
        everybody = [who for who in everybody if who.part != other]
        plan = {n: [one for one in asked if one.who in everybody] for n, asked in plan.items()}
    if not everybody:
        word = " or ".join(WORDS[kind] for kind in predictors)
        raise UserError(f"{path}: no {word} was found in it")
    if not camera.known and lens is not None:
        camera = estimate_video_camera(camera, lens, frames, folder, plan)
        print(f"{path}: {camera.describe()}")
    plan = _correct_plan(plan, camera)
    takes_outlines = "body" in predictors and predictors["body"].config.head.prompt_mask
    outliner = Outliner() if is_searched and takes_outlines else None
    rows = _recover(
        path, frames, folder, plan, everybody, config, predictors, camera, outliner, seconds
    )
    size = (frames.width, frames.height)
    bodies = {kind: predictor.body for kind, predictor in predictors.items()}
    take = make_take(path, frames.times, size, camera.K, rows, everybody, bodies)
    if "hand" in bodies:
        take = hold_hands(take, bodies["hand"])
    take = smooth_by_keys(take, config.video)
    with count_seconds(seconds, "refine"):
        refiner = TakeRefiner(bodies, make_keys(), JoiningRules(), folder)
        take = measure_take(refiner.refine(take) if config.refine else take, refiner.judges)
    take.focal_from, take.correct_image = camera.source, camera.correct_image
    take.confident = config.colour == "confidence"
    written = write_take(take, frames, folder, stem, config, seconds)
    print(f"{path}: {word_seconds(frames.count, time.perf_counter() - start, seconds)}")
    return written


def write_take(
    take: Take,
    frames: Frames,
    folder: Path,
    stem: Path,
    config: PredictFilesConfig,
    seconds: Seconds,
) -> list[Path]:
    """Write the files of animation and the films of a take; returns them.

    Args:
        folder: of what is done of the video.  stem: of the files' names.
        seconds: to which those of each stage are added.
    Raises:
        Failure: a file cannot be written.
    """
    written: list[Path] = []
    with count_seconds(seconds, "files"):
        for name in config.formats:
            written += FORMATS.find(name)(take, stem)
    return written + draw_films(take, frames, folder, stem, config.video, seconds)


def word_seconds(count: int, whole_s: float, seconds: Seconds) -> str:
    """Return what a video took, and of that each stage: on threads they take place together.

    Args:
        count: of frames.  whole_s: wall seconds in all.
    """
    words = [f"{name} {spent:.1f}" for name, spent in seconds.items() if spent >= 0.05]
    return f"{count} frames in {whole_s:.1f} s; seconds of each stage: {', '.join(words)}"


def smooth_by_keys(take: Take, keys: VideoConfig) -> Take:
    """Return a take as ``video.smooth`` says."""
    if keys.smooth == "none":
        return take
    turns = Cutoff(keys.smooth_hz, keys.smooth_rise)
    if keys.smooth == "one_euro":
        return smooth_take(take, turns)
    return mend_take(take, {"body": _open_module(keys)}, turns, keys.fill_s)


def _open_module(keys: VideoConfig) -> MotionModule:
    return locate_module(keys.motion, "video.motion")


def open_frames(path: str, folder: Path) -> Frames:
    """Return the frames of a video; what is known of them is kept in a folder.

    Raises:
        UserError: it cannot be read.
    """
    problems = Problems()
    readable = probe_videos([path], 1, problems, index_store(str(folder)))
    if path not in readable:
        raise UserError(f"{path}: {problems.skipped[path]}")
    return readable[path]


def _find_people(
    frames: Frames, folder: Path, config: PredictFilesConfig, kinds: list[str]
) -> Tracks:
    """Who is where: by boxes=, in the whole image, or by a search that is kept."""
    name = Path(frames.path).stem
    if config.whole_image:
        return {"0": _fill_image(frames, kinds[0], config.side or "right")}
    if config.boxes:
        found = read_detections(config.boxes, {name: frames})
        if name not in found:
            raise UserError(f"boxes={config.boxes} has no row for the video {name}")
        return found[name]
    options = FindConfig(
        rate_hz=config.video.search_hz, tiles=config.video.tiles, lost_s=config.video.lost_s
    )
    hands = "hand" in kinds
    check_ready(str(folder), options, hands)
    problems = Problems()
    run = Run(str(folder), config.video.workers or min(MOST_WORKERS, share_cores()))
    searched = search_videos({name: frames}, options, hands, run, problems)
    if name not in searched:
        raise UserError(f"{frames.path}: {problems.skipped.get(frames.path, 'it has no frames')}")
    return searched[name].tracks


def _fill_image(frames: Frames, kind: str, side: str) -> dict[int, Detection]:
    """One person, or hand, as large as the image in every frame."""
    box = np.array([0, 0, frames.width, frames.height], np.float64)
    if kind == "body":
        return {frame: Detection(box, 1.0) for frame in range(frames.count)}
    hand = {side: HandDetection(side, box)}
    return {
        frame: Detection(box, 1.0, joint_set="hand21", hands=hand) for frame in range(frames.count)
    }


def _recover(
    path: str,
    frames: Frames,
    folder: Path,
    plan: Plan,
    everybody: Sequence[Who],
    config: PredictFilesConfig,
    predictors: Mapping[str, Predictor],
    camera: ImageCamera,
    outliner: Outliner | None,
    seconds: Seconds,
) -> dict[str, Rows]:
    """The rows of all frames; stretches that are kept are not recovered again."""
    rules = JoiningRules(least_px=config.hand_px) if config.join_hands else None
    asked = [
        (n, one.who, one.region.box.tolist(), _list_points(one.region.keypoints))
        for n, mine in plan.items()
        for one in mine
    ]
    networks = [digest_network(one) for one in predictors.values()]
    length = config.video.stretch
    seen = (digest_video(path), camera.K.tolist(), camera.list_lens())
    digest = digest_words(seen, networks, asked, rules, length, outliner is not None)
    parts = Parts(folder, digest)
    parts.clear_others()
    recoverer = Recoverer(predictors, camera.K, everybody, rules, outliner)
    spans = split_stretches(frames.count, length)
    found = {stretch: rows for stretch in spans if (rows := parts.load(stretch)) is not None}
    missing = {stretch: span for stretch, span in spans.items() if stretch not in found}
    wanted = {stretch: [n for n in span if n in plan] for stretch, span in missing.items()}
    with progress.bar(frames.count, "frame", description="recovering") as bar:
        bar.update(sum(len(spans[stretch]) for stretch in found))
        shown = show_stretches(frames, wanted, camera.correct_image)
        empty = [(stretch, {}) for stretch, numbers in wanted.items() if not numbers]
        with recoverer.recover(shown, plan, config.video.threads, seconds) as done:
            for stretch, rows in itertools.chain(empty, done):
                parts.save(stretch, rows)
                found[stretch] = rows
                bar.update(len(spans[stretch]))
    ordered = [found[stretch] for stretch in spans]
    kinds = dict.fromkeys(kind for rows in ordered for kind in rows)
    return {kind: join_rows([rows[kind] for rows in ordered if kind in rows]) for kind in kinds}


def show_stretches(
    frames: Frames,
    wanted: Mapping[int, Sequence[int]],
    correct: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Shown]:
    """Yield the frames that are wanted of each stretch, decoded in one go.

    Args:
        correct: as of ``read_frames``.
    """
    of_frame = {n: stretch for stretch, numbers in wanted.items() for n in numbers}
    last = {numbers[-1] for numbers in wanted.values() if numbers}
    for number, image in read_frames(frames, list(of_frame), correct):
        yield Shown(of_frame[number], number, image, number in last)


def _list_points(points: np.ndarray | None) -> list | None:
    return None if points is None else points.tolist()


def _correct_plan(plan: Plan, camera: ImageCamera) -> Plan:
    """The plan with each region where the camera's corrected image shows it."""
    out: Plan = {}
    for number, asked in plan.items():
        regions = camera.correct_regions([one.region for one in asked])
        out[number] = [
            replace(one, region=region) for one, region in zip(asked, regions, strict=True)
        ]
    return out
