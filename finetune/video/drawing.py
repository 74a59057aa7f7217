"""The films of a take: its overlay and maps, drawn in stretches that a kill leaves.

Decoding, posing, drawing and encoding each have a thread of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data.sources.frames import Frames, Unreadable
from engine.errors import UserError
from engine.logging import progress
from engine.logging.console import get_logger
from engine.pipeline import Pipeline, Seconds, Stage
from finetune.animation.track import Take
from finetune.person import Person
from finetune.verb_config import VideoConfig
from finetune.video.film import (
    draw_frame,
    fit_size,
    join_film,
    pose_frame,
    shrink_frame,
    write_stretch,
)
from finetune.video.maps import MAPS, draw_map
from finetune.video.parts import Films, digest_take, digest_words, split_stretches

log = get_logger(__name__)


@dataclass(frozen=True)
class Film:
    """A video that is drawn of a take.

    Attributes:
        path: of the file.  words: what it depends on beside the take.
        read: gives (number, (H, W, 3) uint8 of the source, or None) of frames.
        stages: from those to (number, (H, W, 3) uint8 of the film).
        source: whose sound is copied, or None.
    """

    path: Path
    words: tuple[object, ...]
    read: Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray | None]]]
    stages: Mapping[str, Stage]
    source: Frames | None = None


def draw_films(
    take: Take,
    frames: Frames,
    folder: Path,
    stem: Path,
    keys: VideoConfig,
    seconds: Seconds,
) -> list[Path]:
    """Draw what is asked for and return the files; those that are done stay as they are.

    Args:
        folder: where stretches lie on the way.  stem: path of the films without their ending.
        seconds: to which those of each stage are added.
    Raises:
        UserError: the video can no longer be read.  Failure: a film cannot be written.
    """
    size = fit_size(take.width, take.height, keys.size_px)
    films = [_plan_map(take, stem, name, size) for name in keys.maps]
    if keys.overlay:
        films.insert(0, _plan_overlay(take, frames, stem, size, keys.side_by_side))
    store, kept = Films(folder), []
    for film in films:
        digest = digest_words(digest_take(take), film.words, keys.stretch)
        kept.append(digest)
        if not (store.is_done(digest) and film.path.exists()):
            _draw(take, film, store, digest, keys, seconds)
    store.clear(kept)
    return [film.path for film in films]


def _plan_overlay(
    take: Take, frames: Frames, stem: Path, size: tuple[int, int], beside: bool
) -> Film:
    def read(numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number, image in read_frames(frames, numbers, take.correct_image):
            yield number, shrink_frame(image, size)

    def pose(
        shown: Iterator[tuple[int, np.ndarray]],
    ) -> Iterator[tuple[int, np.ndarray, list[Person]]]:
        for number, image in shown:
            yield number, image, pose_frame(take, number, size)

    def draw(
        posed: Iterator[tuple[int, np.ndarray, list[Person]]],
    ) -> Iterator[tuple[int, np.ndarray]]:
        for number, image, people in posed:
            yield number, draw_frame(image, people, take.confident, beside)

    path = stem.with_name(f"{stem.name}.overlay.mp4")
    words = ("overlay", size, beside, take.confident)
    return Film(path, words, read, {"pose": pose, "draw": draw}, frames)


def _plan_map(take: Take, stem: Path, name: str, size: tuple[int, int]) -> Film:
    def read(numbers: Sequence[int]) -> Iterator[tuple[int, None]]:
        for number in numbers:
            yield number, None

    def draw(shown: Iterator[tuple[int, None]]) -> Iterator[tuple[int, np.ndarray]]:
        for number, _ in shown:
            yield number, draw_map(take, number, size, name)

    path = stem.with_name(f"{stem.name}.{name}.mp4")
    return Film(path, (name, MAPS[name], size), read, {"draw": draw})


def _draw(
    take: Take, film: Film, store: Films, digest: str, keys: VideoConfig, seconds: Seconds
) -> None:
    """Draw the stretches that are not there, and join them."""
    count = len(take.times)
    spans = split_stretches(count, keys.stretch)
    paths = {stretch: store.stretch(digest, stretch) for stretch in spans}
    missing = {stretch: span for stretch, span in spans.items() if not paths[stretch].exists()}
    numbers = [number for span in missing.values() for number in span]
    pipeline = Pipeline(film.stages, keys.threads, seconds)
    with (
        progress.bar(count, "frame", description=f"drawing {film.path.name}") as bar,
        pipeline.run("decode", film.read(numbers), "encode") as drawn,
    ):
        bar.update(count - len(numbers))
        for stretch, span in missing.items():
            write_stretch(paths[stretch], islice(drawn, len(span)), take.times, take.fps)
            bar.update(len(span))
    stretches = [(span.start, paths[stretch]) for stretch, span in spans.items()]
    said = join_film(film.path, stretches, take.times, film.source)
    store.mark_done(digest)
    if said:
        log.warning("%s: %s", take.video, said)


def read_frames(
    frames: Frames, numbers: Sequence[int], correct: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, (H, W, 3) uint8 RGB) of a video.

    Args:
        correct: what is done to each image, such as to undo its lens.
    Raises:
        UserError: it can no longer be read.
    """
    try:
        for number, image in frames.get(numbers):
            yield number, correct(image)
    except Unreadable as error:
        raise UserError(f"{frames.path}: {error}") from None
