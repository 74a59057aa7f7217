"""Which videos can be read, by whom, and how long they are."""

import dataclasses
import functools
from collections.abc import Sequence

from data.sources.frames import Frames, Unreadable, open_video
from data.sources.index_store import IndexStore
from data.sources.listing import find_videos
from data.tools.process_pool import Died, spread_isolated
from engine.errors import UserError
from engine.logging import progress
from engine.logging.console import get_logger

log = get_logger(__name__)


@dataclasses.dataclass
class Problems:
    """What was skipped: {path: reason}. A command that skipped something ends with exit code 1."""

    skipped: dict = dataclasses.field(default_factory=dict)

    def add(self, path: str, reason: str) -> None:
        """Note and log that a path was skipped; its first reason is kept."""
        if path not in self.skipped:
            self.skipped[path] = reason
            log.warning(f"skipped {path}: {reason}")


def list_videos(where: str) -> dict[str, str]:
    """{name: path} of ``find_videos``; UserError where there is none."""
    try:
        videos = find_videos(where)
    except FileNotFoundError:
        raise UserError(f"videos={where}: no such file or folder") from None
    except (ValueError, OSError) as error:
        raise UserError(f"videos={where}: {error}") from None
    if not videos:
        raise UserError(f"videos={where}: no videos in this folder or below it")
    return videos


def probe_videos(
    paths: Sequence[str], workers: int, problems: Problems, store: IndexStore | None = None
) -> dict[str, Frames]:
    """{path: Frames} of the videos that can be read, each decoded once in a process of its own.

    The others go to ``problems``. One whose process died, as of memory, is tried again alone.

    Args:
        store: keeps what is indexed, and has what was; the bytes of a video tell it.
    """
    answers: dict[str, Frames | str | Died] = {}
    for path in paths if store else ():
        kept = _load(store, path)
        if kept is not None:
            answers[path] = kept
    missing = [path for path in paths if path not in answers]
    work = functools.partial(_probe, store=store)
    with progress.bar(len(missing), "video", description="indexing", hidden=not missing) as bar:
        for path, answer in zip(missing, spread_isolated(work, missing, workers), strict=True):
            answers[path] = answer
            bar.update()
    died = [path for path in paths if isinstance(answers[path], Died)]
    for path, answer in zip(died, spread_isolated(work, died, 1), strict=True):
        answers[path] = answer
    found = {}
    for path in paths:
        answer = answers[path]
        if not isinstance(answer, Frames):
            problems.add(path, str(answer))
            continue
        found[path] = answer
        if answer.note:
            log.warning(f"{path}: {answer.note}")
    return found


def _probe(path, store):
    """The frames of a video, or why it cannot be read; runs in its own process."""
    if store is not None and (kept := _load(store, path)) is not None:
        return kept  # another process of the array has indexed it meanwhile
    try:
        frames = open_video(path)
    except Unreadable as error:
        return str(error)
    if store is not None:
        store.save(frames)
    return frames


def _load(store, path):
    try:
        return store.load(path)
    except OSError:
        return None  # opening it says why
