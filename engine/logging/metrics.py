"""Everything measured, written twice: JSON lines in the run's folder, always; wandb, if on."""

import contextlib
import json
import os
import re
import secrets
import shlex
import sys
import time
from pathlib import Path

from engine.checkpoint.history import step_of_line
from engine.errors import UserError, explain, failure_of
from engine.run.patience import read_bytes

# Seconds that a start waits for wandb's server, and that an end waits for what was not yet sent.
# Nothing else ever waits.
WANDB_START_S, WANDB_END_S = 20, 20
# lines of steps that are done again, of all starts, in the order in which they were cut
CUT = "log.cut.jsonl"
# Its own process on this machine needs none of that, but a busy node may be slow to start it.
WANDB_OFFLINE_S = 120


class Log:
    """``RUN/log.jsonl``, one object a logged step, and a wandb run that is the same across
    restarts.

    Args:
        run: the folder.  step: the step the run goes on from; later lines of an earlier life go to
            ``RUN/log.cut.jsonl``.
        wandb: "off", "offline" or "online" (which goes on offline where the server cannot be
            reached).
        name, config: shown by wandb.
    """

    def __init__(self, run, step, wandb, name, config):
        self.path = Path(run) / "log.jsonl"
        try:
            self._cut(step)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open for the run's life
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be written: {explain(error)}") from None
        self.unwritten = b""
        self.late, self.sent = (
            [],
            set(),
        )  # rows of evaluations for wandb, and steps of those that it got in this life
        self.last, self.shown = (
            step,
            set(),
        )  # the newest line's step; steps whose evaluations wandb has, of all lives
        self.wandb = _wandb(run, wandb, name, config) if wandb != "off" else None

    def write(self, step, values, images=None):
        """One line at a step: plain numbers under "group/name" keys; images ({key: path of a
        PNG}) go to wandb alone.

        A full disk does not end the run: what cannot be written is told on stderr and written with
        the next line.
        """
        line, self.last = {"step": step, "time": round(time.time(), 3), **values}, step
        self.unwritten += json.dumps(line).encode() + b"\n"
        self._flush()
        if self.wandb:
            import wandb

            shown = {k: wandb.Image(str(p)) for k, p in (images or {}).items()}
            late = self.late.pop(0) if self.late else {}  # one a row, for all have the same keys
            self._tell(lambda: self.wandb.log({**values, **shown, **late}, step=step))
            self._note_sent(late)

    def amend(self, found, shown=frozenset()):
        """Put {step: {name: number}} that were found later into the lines of their steps; returns
        the steps now there.

        wandb, whose own steps only go up, gets them over ``evaluation/step``, one with each line to
        come; not those ``shown``.
        """
        self._flush()
        if self.unwritten:
            return set()  # the end of the file is not whole: the next line tries again
        try:
            self.file.close()
            there = amend(self.path, found)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open for the run's life
        except OSError as error:
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            print(
                f"warning: {self.path}: numbers of evaluations cannot be written: "
                f"{explain(error)}; the next line "
                f"tries again",
                file=sys.stderr,
                flush=True,
            )
            return set()
        self.shown |= shown
        if self.wandb:
            self.late += [
                {"evaluation/step": step, **found[step]} for step in sorted(there - shown)
            ]
        return there

    def show_all(self):
        """After the last line: send wandb what is left of evaluations."""
        while self.wandb and self.late:
            late = self.late.pop(0)
            # A later life that is offline knows nothing of wandb's own steps and would begin at 0:
            # these are above all lines.
            self._tell(lambda late=late: self.wandb.log(late, step=self.last + 1 + len(self.shown)))
            self._note_sent(late)

    def _note_sent(self, late):
        if late and self.wandb:
            self.sent.add(late["evaluation/step"])
            self.shown.add(late["evaluation/step"])

    def _flush(self):
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
        except OSError as error:
            waiting = self.unwritten.count(b"\n")
            print(
                f"warning: {self.path} cannot be written: {explain(error)}; {waiting} lines wait "
                f"to be written with "
                f"the next",
                file=sys.stderr,
                flush=True,
            )

    def close(self):
        self._flush()
        try:
            self.file.close()
        except OSError as error:  # NFS says only here that the disk is full
            print(
                f"warning: {self.path}: {explain(error)}; its last lines may be missing",
                file=sys.stderr,
                flush=True,
            )
        if self.wandb:
            offline = self.wandb.settings.mode == "offline"
            self._tell(self.wandb.finish)
            if offline:
                print(
                    f"wandb: this run's parts lie here; where there is a network, this sends all "
                    f"of them as one run:\n"
                    f"    {sync_command(self.path.parent)}",
                    flush=True,
                )

    def _tell(self, word):
        """Say something to wandb. Its process may be gone, for a scheduler's signal reaches that
        too: the run must not mind."""
        try:
            word()
        except Exception as error:
            print(
                f"note: wandb is gone ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:160]}); this life of the run "
                f"goes on in log.jsonl alone",
                file=sys.stderr,
                flush=True,
            )
            self.wandb = None

    def _cut(self, step):
        """Keep the lines up to a step; the others, and what a kill left of one, are moved aside,
        never deleted."""
        data, kept, cut = read_bytes(self.path) or b"", [], []
        for line in data.splitlines():
            number = step_of_line(line)
            (kept if number is not None and number <= step else cut).append(line + b"\n")
        if b"".join(kept) == data:
            return
        aside = self.path.with_name(CUT)
        if cut:
            with open(aside, "ab") as file:
                _write_safely(file, cut)
            print(
                f"note: {len(cut)} lines of {self.path.name} after step {step} are now in {aside}",
                file=sys.stderr,
                flush=True,
            )
        temporary = self.path.with_suffix(".kept")
        with open(temporary, "wb") as file:
            _write_safely(file, kept)
        os.replace(temporary, self.path)


def _write_safely(file, lines):
    file.write(b"".join(lines))
    file.flush()
    os.fsync(file.fileno())


def read(run):
    """The lines of a run's log as dicts; a last line that is still being written, or that a kill
    cut in two, is left out.

    Raises:
        UserError: there is no log, or a line in it is no JSON object with a step.
        EnvironmentFault: it cannot be read for now.
    """
    path = Path(run) / "log.jsonl"
    data = read_bytes(path)
    if data is None:
        raise UserError(
            f"{run} has no log.jsonl: it is no run's folder, or the run has not logged yet"
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


def amend(path, found):
    """Add numbers to lines of a log, in one go; returns the steps whose lines have them now.

    A step without a line gets one where a later step has one: the last line stays that of the last
    step.

    Args:
        found: {step: {name: number}}.
    """
    lines = Path(path).read_bytes().splitlines(True)
    known = [re.match(rb'\{"step": (\d+)[,}]', line) for line in lines]
    place = {int(one[1]): i for i, one in enumerate(known) if one}
    there, changed = set(), False
    for step, numbers in sorted(
        found.items(), reverse=True
    ):  # of two new lines in one place the later goes in first
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
        temporary = Path(path).with_suffix(".amended")
        temporary.write_bytes(b"".join(lines))
        os.replace(temporary, path)
    return there


def sync_command(run):
    """The command that sends all offline parts of a run, in the order of their start; parts already
    sent are passed over."""
    return f"wandb sync {shlex.quote(str(Path(run) / 'wandb'))}/offline-run-*"


def _wandb(run, mode, name, config):
    import wandb

    identity = Path(run) / "wandb_id.txt"
    try:
        if not identity.exists():
            identity.write_text(secrets.token_hex(4))
    except OSError as error:
        print(
            f"note: {identity} cannot be written: {explain(error)}; this life of the run goes on "
            f"in log.jsonl alone",
            file=sys.stderr,
            flush=True,
        )
        return None

    def init(mode):
        # One id for all lives of a run: "allow" starts it or goes on with it.
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
            dir=run,
            config=config,
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
            print(
                f"note: log.wandb=online: {' '.join(str(error).split())[:160]}; this life of the "
                f"run goes on offline",
                file=sys.stderr,
                flush=True,
            )
            # Its service holds the run's id until it is gone; where it ends with a fault, teardown
            # would end this process too.
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()
    try:
        return init("offline")
    except Exception as error:
        print(
            f"note: wandb cannot be started ({' '.join(str(error).split())[:160]}); this life of "
            f"the run goes on in "
            f"log.jsonl alone",
            file=sys.stderr,
            flush=True,
        )
        return None
