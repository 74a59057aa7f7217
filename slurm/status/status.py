"""What became of runs: their jobs' states as SLURM has them, their steps as their logs have
them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.logging import progress
from engine.training import eval_jobs
from slurm import job_record, site
from slurm.submit import evaluate

COMMENT = "counterpose:"
ENDS = {"done": "done", "stop": "stopped"}


@dataclass
class State:
    """Of one run: ``word`` such as running, ``detail`` for a person, ``step`` of ``steps`` (0 of 0
    where there are none).

    ``over``: its supervisor ended it; SLURM has a state "stopped" too, of jobs that live.
    """

    job: job_record.Job
    number: str | None
    word: str
    detail: str
    step: int
    steps: int
    over: bool = False

    @property
    def alive(self):
        return not self.over and self.word.upper() in site.ALIVE


def main(argv):
    """``status``: all of one's jobs; ``status FOLDER``: one run, or all of a sweep."""
    if len(argv) > 1:
        raise UserError(f"status takes one folder, or none; '{argv[1]}' is one too many")
    if not argv:
        return _all()
    found = states(argv[0])
    for state in found:
        if state.job.evaluation and not state.alive and state.word != "here":
            eval_jobs.settle(state.job.folder, ended=True, patience_s=0)
    if len(found) > 1:
        return _table(argv[0], found)
    _one(found[0])
    return 0


def elements(folder):
    """The slurm.job_record.Job of a folder, or those of its elements."""
    for place in (Path(folder), Path(f"{str(folder).rstrip('/')}.slurm")):
        folders = job_record.read(place / "slurm" / "elements.json")
        if folders:
            return [job_record.load(one) for one in folders]
    return [job_record.load(folder)]


def states(folder):
    """[State, ...] of a run, or of all elements of an array."""
    return [_state(job) for job in elements(folder)]


def _state(job):
    sent = job_record.read(job.home / "submitted.json") or {}
    number, lines = sent.get("job"), job_record.history(job.home)
    last = lines[-1] if lines else {}
    step, steps = _steps(job)
    if last.get("event") in ENDS:
        return State(job, number, ENDS[last["event"]], last["reason"] or "", step, steps, True)
    if not number:
        return State(
            job,
            number,
            "here" if lines else "unknown",
            "on this machine, without SLURM",
            step,
            steps,
        )
    fields = site.job(number) if site.present() else {}
    word = fields.get("JobState") or (site.state(number) if site.present() else None)
    word = word or (
        "cancelled" if last["event"] == "cancel" else "gone"
    )  # nobody knows of it any more
    reason = fields.get("Reason", "None")
    return State(job, number, word.lower(), "" if reason == "None" else reason, step, steps)


def _steps(job):
    """(step, steps): of the log's last line, and of the run's config."""
    step, config = 0, Path(job.folder) / "config.yaml"
    log = Path(job.folder) / "log.jsonl"
    if log.exists():
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            for line in reversed(file.read().decode("utf-8", "replace").splitlines()):
                if line.startswith("{") and line.endswith("}"):
                    step = json.loads(line)["step"]
                    break
    steps = (
        [line for line in config.read_text().splitlines() if line.startswith("steps: ")]
        if config.exists()
        else []
    )
    return step, int(steps[0].split(": ")[1]) if steps else 0


def _one(state):
    job = state.job
    number = f"job {state.number} " if state.number else ""
    print(
        f"{' '.join(job.words)} in {job.folder}: "
        f"{number}{state.word}{f' ({state.detail})' if state.detail else ''}"
    )
    if job.training:
        print(
            f"step {state.step}{f' of {state.steps}' if state.steps else ''}; newest checkpoint: "
            f"{job_record.newest_step(job.folder)}"
        )
    if job.evaluation:
        _evaluations(job)
    for line in job_record.history(job.home)[-12:]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["time"]))
        facts = [
            f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for key, value in line.items()
            if key not in ("time", "event") and value not in (None, "", [])
        ]
        print(f"  {at}  {line['event']:<10} {'; '.join(facts)}")


def _evaluations(job):
    """What became of the evaluations of a run: how many came in, which have a job, which failed and
    why."""
    known = eval_jobs.outcomes(job.folder)
    numbers = [step for step, outcome in known.items() if "numbers" in outcome]
    words = [f"{len(numbers)} came in" + (f", of step {numbers[-1]} last" if numbers else "")]
    for step, number in evaluate.sent(job).items():
        words.append(
            f"step {step} in job {number}, "
            f"{(site.state(number) or 'gone').lower() if site.present() else 'unknown'}"
        )
    print(f"evaluations: {'; '.join(words)}")
    for step, outcome in known.items():
        if "error" in outcome:
            print(f"  step {step} failed: {outcome['error']}")


def _table(folder, found):
    """One line a run, and one bar over all."""
    counts = {}
    for state in found:
        counts[state.word] = counts.get(state.word, 0) + 1
        where = Path(state.job.folder).name
        shown = f"step {state.step}/{state.steps}" if state.job.training else ""
        print(f"{state.number or '-':>12}  {state.word:<10} {shown:<16} {where}  {state.detail}")
    print(
        f"{len(found)} in {folder}: "
        f"{', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}"
    )
    if found[0].job.training:
        total, done, unit = sum(s.steps for s in found), sum(s.step for s in found), "step"
    else:
        total, done, unit = len(found), counts.get("done", 0), "part"
    bar = progress.bar(total, unit, description="all")
    bar.update(done)
    bar.close()
    return 0


def _all():
    rows = [
        line.split("|", 6)
        for line in site.ask(
            "squeue", "--me", "-h", "-r", "-o", "%i|%T|%M|%l|%D|%R|%k"
        ).splitlines()
    ]
    rows = [row for row in rows if row[6].startswith(COMMENT)]
    if not rows:
        print("no job of python -m slurm is in the queue")
    for number, word, ran, limit, nodes, reason, comment in rows:
        print(
            f"{number:>12}  {word.lower():<10} {ran:>11} of {limit:<11} {nodes:>4} nodes  "
            f"{comment.removeprefix(COMMENT)}  "
            f"{reason}"
        )
    return 0
