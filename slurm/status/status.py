"""What became of runs.

Their jobs' states as SLURM has them, their steps as their logs have them.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.logging import progress
from engine.run.run_folder import RunFolder
from engine.training import eval_jobs
from slurm import evaluations, job_record, site

COMMENT = "counterpose:"
ENDS = {"done": "done", "stop": "stopped"}


@dataclass
class State:
    """How one run, or one element of an array, goes.

    Attributes:
        number: its job's; None without SLURM.
        word: such as running.
        detail: for a person.
        step, steps: of a training run; 0 of 0 where there are none.
        over: its supervisor ended it; SLURM has a state "stopped" too, of jobs that live.
    """

    job: job_record.Job
    number: str | None
    word: str
    detail: str
    step: int
    steps: int
    over: bool = False

    @property
    def alive(self) -> bool:
        """Whether its job will still do something."""
        return not self.over and self.word.upper() in site.ALIVE


def main(argv: list[str]) -> int:
    """Print ``status``: all of one's jobs; ``status FOLDER``: one run, or all of a sweep."""
    if len(argv) > 1:
        raise UserError(f"status takes one folder, or none; '{argv[1]}' is one too many")
    if not argv:
        return _show_queue()
    found = list_states(argv[0])
    for state in found:
        if state.job.evaluation and not state.alive and state.word != "here":
            eval_jobs.settle(state.job.folder, ended=True, patience_s=0)
    if len(found) > 1:
        return _show_table(argv[0], found)
    _show_one(found[0])
    return 0


def list_jobs(folder: str) -> list[job_record.Job]:
    """Return the job of a folder, or those of its elements."""
    for path in (Path(folder), Path(f"{folder.rstrip('/')}.slurm")):
        folders = job_record.read_json(RunFolder(path).slurm / "elements.json")
        if folders:
            return [job_record.load_job(one) for one in folders]
    return [job_record.load_job(folder)]


def list_states(folder: str) -> list[State]:
    """Return the State of a run, or of all elements of an array."""
    return [_find_state(job) for job in list_jobs(folder)]


def _find_state(job: job_record.Job) -> State:
    sent = job_record.read_json(job.home / "submitted.json") or {}
    number, lines = sent.get("job"), job_record.read_events(job.home)
    last = lines[-1] if lines else {}
    step, steps = _read_steps(job)
    if last.get("event") in ENDS:
        return State(job, number, ENDS[last["event"]], last["reason"] or "", step, steps, True)
    if not number:
        word = "here" if lines else "unknown"
        return State(job, number, word, "on this machine, without SLURM", step, steps)
    fields = site.read_job(number) if site.is_present() else {}
    word = fields.get("JobState") or (site.read_state(number) if site.is_present() else None)
    # Of one that nobody knows any more the history tells the rest.
    word = word or ("cancelled" if last.get("event") == "cancel" else "gone")
    reason = fields.get("Reason", "None")
    return State(job, number, word.lower(), "" if reason == "None" else reason, step, steps)


def _read_steps(job: job_record.Job) -> tuple[int, int]:
    """Return (step, steps): of the log's last line, and of the run's config."""
    run, step = RunFolder(job.folder), 0
    log, config = run.log, run.config
    if log.exists():
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            for line in reversed(file.read().decode("utf-8", "replace").splitlines()):
                if line.startswith("{") and line.endswith("}"):
                    step = json.loads(line)["step"]
                    break
    if config.exists():
        for line in config.read_text().splitlines():
            if line.startswith("steps: "):
                return step, int(line.removeprefix("steps: "))
    return step, 0


def _show_one(state: State) -> None:
    job = state.job
    number = f"job {state.number} " if state.number else ""
    detail = f" ({state.detail})" if state.detail else ""
    print(f"{' '.join(job.words)} in {job.folder}: {number}{state.word}{detail}")
    if job.training:
        steps = f" of {state.steps}" if state.steps else ""
        newest = job_record.find_newest_step(job.folder)
        print(f"step {state.step}{steps}; newest checkpoint: {newest}")
    if job.evaluation:
        _show_evaluations(job)
    for line in job_record.read_events(job.home)[-12:]:
        print(f"  {_describe_event(line)}")


def _describe_event(event: job_record.Event) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    facts = []
    for key, value in event.items():
        if key not in ("time", "event") and value not in (None, "", []):
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            facts.append(f"{key} {text}")
    return f"{at}  {event['event']:<10} {'; '.join(facts)}"


def _show_evaluations(job: job_record.Job) -> None:
    """Print what became of the evaluations of a run.

    That is how many came in, which have a job, which failed and why.
    """
    known = eval_jobs.outcomes(job.folder)
    numbers = [step for step, outcome in known.items() if "numbers" in outcome]
    words = [f"{len(numbers)} came in" + (f", of step {numbers[-1]} last" if numbers else "")]
    for step, number in evaluations.find_sent(job).items():
        state = (site.read_state(number) or "gone").lower() if site.is_present() else "unknown"
        words.append(f"step {step} in job {number}, {state}")
    print(f"evaluations: {'; '.join(words)}")
    for step, outcome in known.items():
        if "error" in outcome:
            print(f"  step {step} failed: {outcome['error']}")


def _show_table(folder: str, found: list[State]) -> int:
    """Print one line a run, and one bar over all."""
    counts = {}
    for state in found:
        counts[state.word] = counts.get(state.word, 0) + 1
        where = Path(state.job.folder).name
        shown = f"step {state.step}/{state.steps}" if state.job.training else ""
        print(f"{state.number or '-':>12}  {state.word:<10} {shown:<16} {where}  {state.detail}")
    counted = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    print(f"{len(found)} in {folder}: {counted}")
    if found[0].job.training:
        total, done, unit = sum(s.steps for s in found), sum(s.step for s in found), "step"
    else:
        total, done, unit = len(found), counts.get("done", 0), "part"
    bar = progress.bar(total, unit, description="all")
    bar.update(done)
    bar.close()
    return 0


def _show_queue() -> int:
    said = site.ask("squeue", "--me", "-h", "-r", "-o", "%i|%T|%M|%l|%D|%R|%k")
    rows = [line.split("|", 6) for line in said.splitlines()]
    rows = [row for row in rows if row[6].startswith(COMMENT)]
    if not rows:
        print("no job of python -m slurm is in the queue")
    for number, word, ran, limit, nodes, reason, comment in rows:
        print(
            f"{number:>12}  {word.lower():<10} {ran:>11} of {limit:<11} {nodes:>4} nodes  "
            f"{comment.removeprefix(COMMENT)}  {reason}"
        )
    return 0
