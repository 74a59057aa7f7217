"""The search for people in videos: in pieces, by several processes, resumed after a kill.

    found = search_videos({name: Frames}, cfg.find, hands, Run(folder, workers), problems)
    found[name].tracks

Each piece (PIECE_FRAMES searched frames) is looked at on its own, and what is seen is kept; when
all pieces of a video are there its people are followed in one go. So one long video is shared by
all processes, and the answer does not depend on their number.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.find.config import FindConfig
from data.find.finder import open_finder
from data.find.following import follow_people
from data.find.found import Found
from data.find.looks import Looks, LookWriter, Opener, join_looks
from data.find.store import FOLDER, Store, digest_search
from data.sources.frames import Frames, Unreadable
from data.sources.probe import Problems
from data.tools.process_pool import Died, spread_isolated
from data.tools.work_split import Part
from engine.errors import explain
from engine.logging import progress
from engine.logging.console import get_logger

PIECE_FRAMES = 50
# Frames of the pieces that one process takes, at most and a piece more: it needs a second or two to
# start, and a decoder may take it along.
BATCH_FRAMES = 200
FOLLOWED_AT_ONCE = 20_000  # frames whose people one process follows

log = get_logger(__name__)


@dataclass(frozen=True)
class Run:
    """How a search is run; its results do not depend on it.

    Attributes:
        folder: where the results are kept.
        workers: processes.
        part: this process's share. Where others have theirs, it takes its own pieces first and then
            those that are still lacking.
        own_alone: leave the others' videos to them.
    """

    folder: str
    workers: int = 1
    part: Part = field(default_factory=Part)
    own_alone: bool = False


@dataclass(frozen=True)
class Video:
    """A video to be searched: its name, its Frames, and the digest of its search."""

    name: str
    frames: Frames
    digest: str


@dataclass(frozen=True)
class Piece:
    """Part of a video's search: the numbers of its frames, and the searched one before, or -1.

    Attributes:
        part: "FIRST-END", which of the searched frames these are.
    """

    video: Video
    part: str
    frames: Sequence[int]
    before: int


@dataclass(frozen=True)
class Seen:
    """What a process says of its pieces: frames, CPU seconds, and {video: how a process died}."""

    frames: int
    cpu_s: float
    died: Mapping[str, str] = field(default_factory=dict)


def find_tracks(frames: Frames, options: FindConfig, opener: Opener | None = None) -> Found:
    """Return the people of one video, in this process and without keeping anything.

    Args:
        opener: opens the finder; data.find.finder.open_finder where None.
    """
    finder = (opener or open_finder)(False, False, options.tiles)
    video = Video("", frames, "")
    looks = [_look(piece, options, False, finder) for piece in split_video(video, options.rate_hz)]
    return follow_people(join_looks([part for part, _ in looks]), frames.times, options)


def check_ready(folder: str, options: FindConfig, hands: bool) -> None:
    """Say what a search lacks before a first one in a folder takes any time.

    Raises:
        UserError: the networks are not there.
    """
    if not (Path(folder) / FOLDER).exists():
        open_finder(False, hands, options.tiles)


def search_videos(
    videos: Mapping[str, Frames],
    options: FindConfig,
    hands: bool,
    run: Run,
    problems: Problems,
    opener: Opener | None = None,
) -> dict[str, Found]:
    """Return {name: its people}, from the folder where they are there, else by a search.

    Args:
        hands: hands too, of people and of nobody.
        opener: opens the finder in each process; data.find.finder.open_finder where None.

    Raises:
        UserError: the networks are not there.  Failure: the folder cannot be written.
    """
    store = Store(run.folder)
    known: dict[str, Found] = {}
    missing: list[Video] = []
    for number, (name, frames) in enumerate(videos.items()):
        if run.own_alone and not run.part.has(number):
            continue
        try:
            video = Video(name, frames, digest_search(frames.path, options, hands))
        except OSError as error:
            problems.add(frames.path, explain(error))
            continue
        found = store.load(name, video.digest)
        if found is None:
            missing.append(video)
        else:
            known[name] = found
    if known and missing:
        log.info(f"{len(known)} of {len(videos)} videos are searched already")
    if missing:
        opener = opener or open_finder
        opener(False, hands, options.tiles)  # says what is missing before processes start
        died = _search(missing, options, hands, run, opener)
        known |= _follow(missing, options, run, died, problems)
    for name, found in known.items():
        if found.broken:
            problems.add(videos[name].path, found.broken)
    return {name: known[name] for name in videos if name in known}


def sample_frames(times: np.ndarray, rate_hz: float) -> list[int]:
    """Return the frames that are searched: of each 1/rate_hz seconds the first.

    Args:
        times: (F,) seconds, increasing.
    """
    if not len(times):
        return []
    slots = np.floor((times - times[0]) * rate_hz + 1e-6).astype(np.int64)
    return np.flatnonzero(np.diff(slots, prepend=-1) > 0).tolist()


def split_video(video: Video, rate_hz: float) -> list[Piece]:
    """Return the pieces of a video's search."""
    frames = sample_frames(video.frames.times, rate_hz)
    pieces: list[Piece] = []
    for first in range(0, len(frames), PIECE_FRAMES):
        end = min(first + PIECE_FRAMES, len(frames))
        before = frames[first - 1] if first else -1
        pieces.append(Piece(video, f"{first:06d}-{end:06d}", frames[first:end], before))
    return pieces


def _search(videos, options, hands, run, opener) -> dict[str, str]:
    """Look at all pieces that are not kept yet; returns {name: why a piece could not be}."""
    store = Store(run.folder)
    pieces: list[Piece] = []
    for video in videos:
        for piece in split_video(video, options.rate_hz):
            if not store.has_piece(video.name, video.digest, piece.part):
                pieces.append(piece)
    if not run.part.alone:
        own = [p for n, p in enumerate(pieces) if run.part.has(n)]
        pieces = own + [p for n, p in enumerate(pieces) if not run.part.has(n)]
    total = sum(len(piece.frames) for piece in pieces)
    share = min(BATCH_FRAMES, -(-total // run.workers))
    batches = list(_batch(pieces, share, lambda piece: len(piece.frames)))
    work = functools.partial(_look_at, options=options, hands=hands, run=run, opener=opener)
    died: dict[str, str] = {}
    count, cpu_s = 0, 0.0
    with progress.bar(total, "frame", description="searching") as bar:
        answers = spread_isolated(work, batches, run.workers)
        for batch, answer in zip(batches, answers, strict=True):
            for seen in _settle(work, batch, answer):
                count, cpu_s = count + seen.frames, cpu_s + seen.cpu_s
                died |= seen.died
            bar.update(sum(len(piece.frames) for piece in batch))
    if count:
        log.info(
            f"searched {count} frames of {len(videos)} videos: {1000 * cpu_s / count:.0f} ms of "
            "CPU a frame"
        )
    return died


def _settle(work, batch, answer) -> Iterator[Seen]:
    """The answer of a batch; where its process died, those of its pieces one by one."""
    if not isinstance(answer, Died):
        yield answer
        return
    alone = spread_isolated(work, [[piece] for piece in batch], 1)
    for piece, again in zip(batch, alone, strict=True):
        yield Seen(0, 0.0, {piece.video.name: str(again)}) if isinstance(again, Died) else again


def _look_at(
    pieces: list[Piece], options: FindConfig, hands: bool, run: Run, opener: Opener
) -> Seen:
    """Search pieces and keep what is seen; runs in its own process."""
    store = Store(run.folder)
    finder = opener(False, hands, options.tiles)
    start, count = time.process_time(), 0
    for piece in pieces:
        video = piece.video
        if store.has_piece(video.name, video.digest, piece.part):
            continue  # another process of the array has looked at it meanwhile
        looks, broken = _look(piece, options, hands, finder)
        store.save_piece(video.name, video.digest, piece.part, looks, broken)
        count += len(looks.frame)
    return Seen(count, time.process_time() - start)


def _look(piece, options, hands, finder) -> tuple[Looks, str]:
    """What is seen in a piece, and why it ended early, or ""."""
    writer = LookWriter(finder, hands, options.score_min)
    wanted = list(piece.frames) if piece.before < 0 else [piece.before, *piece.frames]
    try:
        for frame, image in piece.video.frames.get(wanted):
            if frame == piece.before:
                writer.compare_with(image)
            else:
                writer.look(frame, image)
    except Unreadable as error:
        return writer.finish(), str(error)
    return writer.finish(), ""


def _follow(videos, options, run, died, problems) -> dict[str, Found]:
    """Follow the people of videos whose pieces are all there, and keep the result."""
    batches = list(_batch(videos, FOLLOWED_AT_ONCE, lambda video: len(video.frames.times)))
    work = functools.partial(_follow_in, options=options, run=run)
    answers = spread_isolated(work, batches, run.workers)
    store, out = Store(run.folder), {}
    for batch, answer in zip(batches, answers, strict=True):
        for video in batch:
            found = store.load(video.name, video.digest)
            if found is None:
                reason = died.get(video.name) or (answer and str(answer)) or "a piece is missing"
                problems.add(video.frames.path, f"the search for people failed: {reason}")
            else:
                out[video.name] = found
    return out


def _follow_in(videos: list[Video], options: FindConfig, run: Run) -> None:
    """Follow the people of those videos that lack no piece."""
    store = Store(run.folder)
    for video in videos:
        if store.load(video.name, video.digest) is not None:
            continue  # another process of the array was faster
        pieces = split_video(video, options.rate_hz)
        kept = [store.load_piece(video.name, video.digest, piece.part) for piece in pieces]
        there = [part for part in kept if part is not None]
        if there and len(there) == len(pieces):
            looks = join_looks([looks for looks, _ in there])
            found = follow_people(looks, video.frames.times, options)
            found.broken = next((broken for _, broken in there if broken), "")
            store.save(video.name, video.digest, found)


def _batch(items, least, size):
    """Lists of items whose sizes sum to ``least`` or a little more."""
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= least:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
