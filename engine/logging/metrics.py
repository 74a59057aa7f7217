"""Everything measured, written twice: JSON lines in the run's folder, always; wandb, if on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Set
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.checkpoint.history import step_of_line
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import write_file
from engine.run.patience import read_bytes
from engine.run.run_folder import RunFolder

if TYPE_CHECKING:
    import wandb

log = get_logger(__name__)

# Seconds that a start waits for wandb's server, and that an end waits for what was not yet sent.
# Nothing else ever waits.
WANDB_START_S, WANDB_END_S = 20, 20
# Its own process on this machine needs none of that, but a busy node may be slow to start it.
WANDB_OFFLINE_S = 120


class Log:
    """``RUN/log.jsonl``, a line a logged step, and a wandb run, the same across restarts.

    Args:
        run: the folder.  step: the step the run resumes from; later lines of an earlier attempt go
            to ``RUN/log.cut.jsonl``.
        wandb: "off", "offline" or "online" (which becomes offline where the server cannot be
            reached).
        name, config: shown by wandb.
    """

    def __init__(
        self, run: str | Path, step: int, wandb: str, name: str, config: Mapping[str, Any]
    ) -> None:
        self.folder = RunFolder(run)
        self.path = self.folder.log
        try:
            self._cut(step)
            self.file: FileIO = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be written: {explain(error)}") from None
        self.unwritten = b""
        self.late: list[dict[str, Any]] = []  # rows of evaluations for wandb
        self.sent: set[int] = set()  # steps of those that wandb got in this attempt
        self.last = step  # the newest line's step
        self.shown: set[int] = set()  # steps whose evaluations wandb has, of all attempts
        self.wandb = _start_wandb(self.folder, wandb, name, config) if wandb != "off" else None

    def write(
        self, step: int, values: Mapping[str, Any], images: Mapping[str, Path] | None = None
    ) -> None:
        """Write one line at a step.

        A full disk does not end the run: what cannot be written is a warning and is written with
        the next line.

        Args:
            values: plain numbers under "group/name" keys.  images: PNGs, for wandb alone.
        """
        line = {"step": step, "time": round(time.time(), 3), **values}
        self.last = step
        self.unwritten += json.dumps(line).encode() + b"\n"
        self._flush()
        if self.wandb:
            import wandb

            shown = {k: wandb.Image(str(p)) for k, p in (images or {}).items()}
            late = self.late.pop(0) if self.late else {}  # one a row, for all have the same keys
            self._send({**values, **shown, **late}, step)
            self._note_sent(late)

    def amend(
        self, found: Mapping[int, Mapping[str, Any]], shown: Set[int] = frozenset()
    ) -> set[int]:
        """Put numbers that were found later into the lines of their steps.

        wandb, whose own steps only go up, gets them over ``evaluation/step``, one with each line to
        come; not those ``shown``.

        Args:
            found: {step: {name: number}}.
        Returns:
            the steps whose lines have them now
        """
        self._flush()
        if self.unwritten:
            return set()  # the end of the file is not whole: the next line tries again
        try:
            self.file.close()
            there = amend(self.path, found)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close
        except OSError as error:
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close
            log.warning(
                "%s: numbers of evaluations cannot be written: %s; the next line tries again",
                self.path,
                explain(error),
            )
            return set()
        self.shown |= shown
        if self.wandb:
            for step in sorted(there - shown):
                self.late.append({"evaluation/step": step, **found[step]})
        return there

    def show_all(self) -> None:
        """After the last line: send wandb what is left of evaluations."""
        while self.wandb and self.late:
            late = self.late.pop(0)
            # A later attempt that is offline knows nothing of wandb's own steps and would begin at
            # 0: these are above all lines.
            self._send(late, self.last + 1 + len(self.shown))
            self._note_sent(late)

    def _note_sent(self, late: dict[str, Any]) -> None:
        if late and self.wandb:
            self.sent.add(late["evaluation/step"])
            self.shown.add(late["evaluation/step"])

    def _flush(self) -> None:
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
        except OSError as error:
            log.warning(
                "%s cannot be written: %s; %d lines wait to be written with the next",
                self.path,
                explain(error),
                self.unwritten.count(b"\n"),
            )

    def close(self) -> None:
        """Write what waits, close the file and end wandb's run."""
        self._flush()
        try:
            self.file.close()
        except OSError as error:  # NFS says only here that the disk is full
            log.warning("%s: %s; its last lines may be missing", self.path, explain(error))
        if self.wandb:
            offline = self.wandb.settings.mode == "offline"
            self._tell(self.wandb.finish)
            if offline:
                log.info(
                    "wandb: this run's parts lie here; where there is a network, this sends all of "
                    "them as one run:\n    %s",
                    sync_command(self.folder.path),
                )

    def _send(self, row: dict[str, Any], step: int) -> None:
        if self.wandb:
            run = self.wandb
            self._tell(lambda: run.log(row, step=step))

    def _tell(self, word: Callable[[], object]) -> None:
        """Say something to wandb.

        Its process may be gone, for a scheduler's signal reaches that too: the run must not mind.
        """
        try:
            word()
        except Exception as error:
            log.info(
                "note: wandb is gone (%s: %s); this attempt continues in log.jsonl alone",
                type(error).__name__,
                _shorten(error),
            )
            self.wandb = None

    def _cut(self, step: int) -> None:
        """Keep the lines up to a step.

        The others, and what a kill left of one, are moved aside, never deleted.
        """
        data, kept, cut = read_bytes(self.path) or b"", [], []
        for line in data.splitlines():
            number = step_of_line(line)
            (kept if number is not None and number <= step else cut).append(line + b"\n")
        if b"".join(kept) == data:
            return
        aside = self.folder.cut_log
        if cut:
            with open(aside, "ab") as file:
                file.write(b"".join(cut))
                file.flush()
                os.fsync(file.fileno())
            log.info(
                "note: %d lines of %s after step %d are now in %s",
                len(cut),
                self.path.name,
                step,
                aside,
            )
        write_file(self.path, b"".join(kept), durable=True)


def read(run: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log as dicts.

    A last line that is still being written, or that a kill cut in two, is left out.

    Raises:
        UserError: there is no log, or a line in it is not a JSON object with a step.
        EnvironmentFault: it cannot be read for now.
    """
    path = RunFolder(run).log
    data = read_bytes(path)
    if data is None:
        raise UserError(
            f"{run} has no log.jsonl: it is not a run's folder, or the run has not logged yet"
        )
    lines = data.decode(errors="replace").splitlines(True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(found[-1], dict) or not isinstance(found[-1].get("step"), int):
            raise UserError(f"{path}, line {number}: no object with a step")
    return found


def amend(path: str | Path, found: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Add numbers to lines of a log, in one go.

    A step without a line gets one where a later step has one: the last line stays that of the last
    step.

    Args:
        found: {step: {name: number}}.
    Returns:
        the steps whose lines have them now
    """
    lines = Path(path).read_bytes().splitlines(True)
    known = [re.match(rb'\{"step": (\d+)[,}]', line) for line in lines]
    place = {int(one[1]): i for i, one in enumerate(known) if one}
    there: set[int] = set()
    changed = False
    # The later step first: of two new lines before the same one it goes in first.
    for step in sorted(found, reverse=True):
        numbers = found[step]
        if step in place:
            line = json.loads(lines[place[step]])
        elif any(other > step for other in place):
            line = {"step": step, "time": round(time.time(), 3)}
        else:
            continue
        there.add(step)
        if not numbers.items() <= line.items():
            text, changed = json.dumps({**line, **numbers}).encode() + b"\n", True
            if step in place:
                lines[place[step]] = text
            else:
                at = place[min(other for other in place if other > step)]
                lines[at] = text + lines[at]
    if changed:
        write_file(path, b"".join(lines))
    return there


def sync_command(run: str | Path) -> str:
    """Return the command that sends all offline parts of a run, in the order of their start.

    Parts already sent are passed over.
    """
    return f"wandb sync {shlex.quote(str(RunFolder(run).wandb))}/offline-run-*"


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _start_wandb(
    folder: RunFolder, mode: str, name: str, config: Mapping[str, Any]
) -> wandb.Run | None:
    import wandb

    identity = folder.wandb_id
    try:
        if not identity.exists():
            identity.write_text(secrets.token_hex(4))
    except OSError as error:
        log.info(
            "note: %s cannot be written: %s; this attempt continues in log.jsonl alone",
            identity,
            explain(error),
        )
        return None

    def init(mode: Literal["offline", "online"]) -> wandb.Run:
        # One id for all attempts of a run: "allow" starts it or resumes it.
        patience = WANDB_START_S if mode == "online" else WANDB_OFFLINE_S
        settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            init_timeout=patience,
            login_timeout=WANDB_START_S,
            finish_timeout=WANDB_END_S,
        )
        started = wandb.init(
            project="counterpose",
            name=name,
            id=identity.read_text(),
            resume="allow",
            mode=mode,
            dir=folder.path,
            config=dict(config),
            settings=settings,
        )
        # Evaluations come in when training is far beyond their step, so they have an axis of their
        # own.
        started.define_metric("evaluation/*", step_metric="evaluation/step")
        return started

    # The service of the process that started this one, where that uses wandb too, may end before
    # this run does or be gone.
    os.environ.pop("WANDB_SERVICE", None)
    if mode == "online":
        try:
            return init("online")
        # wandb has a dozen kinds without one parent: of the network, its process, its service
        except Exception as error:
            log.info("note: log.wandb=online: %s; this attempt continues offline", _shorten(error))
            # Its service holds the run's id until it is gone; where it ends with a fault, teardown
            # would end this process too.
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()
    try:
        return init("offline")
    except Exception as error:
        log.info(
            "note: wandb cannot be started (%s); this attempt continues in log.jsonl alone",
            _shorten(error),
        )
        return None
