"""Which videos can be read, by whom, and how long they are."""

import dataclasses
from collections.abc import Sequence

from data.sources.frames import Frames, Unreadable, find_videos, open_video
from data.tools.process_pool import Died, spread_isolated
from engine.errors import UserError
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
    """{stem: path}; UserError where there is none."""
    try:
        videos = find_videos(where)
    except FileNotFoundError:
        raise UserError(f"videos={where}: no such file or folder") from None
    except (ValueError, OSError) as error:
        raise UserError(f"videos={where}: {error}") from None
    if not videos:
        raise UserError(f"videos={where}: no videos in this folder")
    return videos


def probe_videos(paths: Sequence[str], workers: int, problems: Problems) -> dict[str, Frames]:
    """{path: Frames} of the videos that some decoder reads; the others go to ``problems``."""
    found, again = {}, []
    for path, answer in zip(
        paths, spread_isolated(_probe, [(p, ("decord", "av")) for p in paths], workers), strict=True
    ):
        if isinstance(answer, Died):
            again.append(path)
        else:
            found[path] = answer
    for path, answer in zip(
        again, spread_isolated(_probe, [(p, ("av",)) for p in again], workers), strict=True
    ):
        found[path] = str(answer) if isinstance(answer, Died) else answer
    for path, answer in found.items():
        if isinstance(answer, str):
            problems.add(path, answer)
        elif answer.note:
            log.info(f"{path}: {answer.note}; PyAV reads it")
    return {path: found[path] for path in paths if not isinstance(found[path], str)}


def _probe(argument):
    path, decoders = argument
    try:
        return open_video(path, decoders)
    except Unreadable as error:
        return str(error)
