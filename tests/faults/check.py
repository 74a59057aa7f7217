"""The invariant: what a run's folder holds before and after a start, and what must not change."""

import errno
import hashlib
import json
import re
from dataclasses import dataclass

from .plan import OF_THE_MACHINE
from .workloads import KEEP, KEEP_EVERY, STEPS

MARKER = "complete.json"
TRACEBACK = "Traceback (most recent call last)"
VOLATILE = ("time", "checkpoint/failed")  # of a log's line, beside speed/ and memory/


@dataclass
class Found:
    """What a run's folder holds.

    Attributes:
        complete: {step: {file: bytes}} of the checkpoints whose files are those of their marker.
        damaged: names of those that have a marker and other files, but none that was moved aside.
        aside: {file: bytes} of each complete one under another name.
        lines: the whole lines of the log.  rest: what follows the last of them.
    """

    complete: dict
    damaged: list
    aside: list
    lines: list
    rest: bytes

    @property
    def newest(self):
        return max(self.complete, default=0)


def look(run):
    """What a run's folder holds; independent of engine.checkpoint, whose format it reads."""
    complete, damaged, aside = {}, [], []
    for marker in sorted(run.rglob(MARKER)):
        files = {
            path.name: path.read_bytes()
            for path in marker.parent.iterdir()
            if path.is_file() and path != marker
        }
        name = re.fullmatch(r"step-(\d{8})", marker.parent.name)
        if marker.parent.name.startswith(".writing-"):
            continue  # what the next save clears away does not count
        if not holds(marker, files):
            damaged += [marker.parent.name] if name else []
        elif name and marker.parent.parent.name == "checkpoints":
            complete[int(name[1])] = files
        else:
            aside.append(files)
    log = run / "log.jsonl"
    *lines, rest = log.read_bytes().split(b"\n") if log.exists() else [b""]
    return Found(complete, damaged, aside, lines, rest)


def holds(marker, files):
    """Whether files are those that a marker lists, by size and hash."""
    listed = json.loads(marker.read_text())["files"]
    return all(
        name in files
        and [len(files[name]), hashlib.blake2b(files[name], digest_size=16).hexdigest()]
        == list(entry)
        for name, entry in listed.items()
    )


def kept(steps):
    """Of steps that have a checkpoint, those that ``checkpoint.keep`` and ``keep_every`` leave."""
    return {
        step
        for place, step in enumerate(sorted(steps, reverse=True))
        if place < KEEP or step % KEEP_EVERY == 0
    }


def step_of(line):
    return json.loads(line)["step"]


def lost_checkpoints(before, after, made, reference):
    """Violations: complete checkpoints that are gone, or are not what they were or should be.

    Args:
        made: steps whose marker this start put in place.
        reference: Found of an undisturbed run that kept everything; None if this one went astray.
    """
    known = reference.complete if reference else {}
    out = []
    for step in sorted(kept({*before.complete, *made})):
        wanted = before.complete.get(step) or known.get(step)
        if step not in after.complete and (wanted is None or wanted not in after.aside):
            out.append(f"the complete checkpoint of step {step} is gone")
    for step, files in after.complete.items():
        wanted = known.get(step) if reference or step in made else before.complete.get(step)
        if wanted is None:
            continue  # one more, after a signal, or of a run that went astray
        differing = [name for name in files if files[name] != wanted.get(name)]
        if differing:
            out.append(f"the checkpoint of step {step} has not the {differing[0]} it should have")
    out += [
        f"{name} is marked as complete and damaged"
        for name in after.damaged
        if name not in before.damaged
    ]
    return out


def lost_lines(before, after, excused):
    """Violations: lines of the log up to the newest checkpoint that are gone, lines that are none.

    Args:
        excused: whether a kill or a write that failed may have left half a line at the log's end.
    """
    out = []
    wanted = [line for line in before.lines if step_of(line) <= before.newest]
    if after.lines[: len(wanted)] != wanted:
        out.append(
            f"the log had {len(wanted)} lines up to step {before.newest} and has lost some: "
            f"now {len(after.lines)}"
        )
    try:
        steps = [step_of(line) for line in after.lines]
    except (ValueError, KeyError, TypeError):
        return [*out, "the log has a line that is not a JSON object with a step"]
    if steps != sorted(set(steps)):
        out.append(f"the log's steps are {steps}")
    if after.rest not in (b"", before.rest) and not excused:
        out.append("the log ends in half a line")
    return out


def bad_end(code, said, struck, after, astray=False):
    """Violations in how a start ended.

    Args:
        code: its exit code.  said: its output.  struck: names of the errors that it met.
        astray: whether the run may have broken down, as ``went_astray`` says.
    """
    killed = "KILL" in struck
    if killed:
        return [] if code == -9 else [f"killed, it left with {code}"]
    out, errors = [], [line for line in re.split(r"[\r\n]+", said) if line.startswith("error: ")]
    if TRACEBACK in said:
        out.append("a traceback: " + last_exception(said))
    if code == 0:
        out += ["it left with 0 and said an error"] if errors else []
        out += (
            []
            if STEPS in after.complete
            else ["it left with 0 and has no checkpoint of the last step"]
        )
    elif code == 77 and astray:
        pass
    elif code not in (2, 74):
        out.append(f"it left with {code}")
    elif len(errors) != 1:
        out.append(f"it left with {code} and {len(errors)} lines 'error: ...'")
    if code == 2 and struck <= OF_THE_MACHINE:
        out.append(
            f"it left with 2, a person's fault, after {', '.join(sorted(struck)) or 'nothing'}"
        )
    return out


def went_astray(faults, said):
    """Whether a run that has to go back over bad updates lacks a checkpoint that another has.

    It goes back further, or breaks down: its end is no other run's.

    Args:
        faults: of the toy.  said: the output of all starts so far.
    """
    return "nan" in faults and "was not written" in said


def last_exception(said):
    """The line of a traceback that names the exception, and the last place of ours above it."""
    after = said[said.rindex(TRACEBACK) :]
    named = next(
        (line for line in after.splitlines()[1:] if re.match(r"[A-Za-z_][\w.]*(: |$)", line)), "?"
    )
    places = re.findall(
        r'File ".*?/((?:engine|data|pretrain|finetune|tests)/\w+\.py)", line (\d+), in (\w+)', after
    )
    return f"{named[:160]} ({':'.join(places[-1]) if places else '?'})"


def bad_outcome(code, said, after, reference, log_hit):
    """Violations after the start without faults.

    Args:
        log_hit: whether any fault of the case struck the log, so that lines may be missing.
    """
    if code != 0:
        last = said.strip().splitlines()[-1:] or [""]
        return [f"the start without faults left with {code}: {last[0][:200]}"]
    out = []
    if STEPS not in after.complete:
        out.append("the start without faults made no checkpoint of the last step")
    elif after.complete[STEPS] != reference.complete[STEPS]:
        out.append("the last checkpoint is not that of an undisturbed run")
    lines, wanted = ([plain(line) for line in found.lines] for found in (after, reference))
    if log_hit:
        wanted = [line for line in wanted if line["step"] in {line["step"] for line in lines}]
    if lines != wanted:
        steps = [[line["step"] for line in side] for side in (lines, wanted)]
        out.append(
            f"the log's steps are {steps[0]}, undisturbed {steps[1]}"
            if steps[0] != steps[1]
            else "the log's numbers are not those of an undisturbed run"
        )
    if not lines or lines[-1]["step"] != STEPS:
        out.append("the log has no line of the last step")
    return out


def plain(line):
    """A line of the log without what differs between equal runs."""
    return {
        name: value
        for name, value in json.loads(line).items()
        if name not in VOLATILE and not name.startswith(("speed/", "memory/"))
    }


def name_of(call, killed):
    """What a struck call met: an errno's name, SHORT or KILL."""
    if call.error:
        return errno.errorcode[call.error]
    return "KILL" if killed else "SHORT"
