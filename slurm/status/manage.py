"""``logs``, ``cancel`` and ``requeue`` of what was submitted."""

import json
import os
import shlex
import time
from pathlib import Path

from engine.errors import UserError
from engine.run.run_folder import RunFolder
from slurm import job_record, site
from slurm.config import from_flat
from slurm.status import status
from slurm.submit import submit

FOLLOW_S = 0.5


def logs(argv: list[str]) -> int:
    """Print what a rank said, or the job's own words where no rank has started.

    With --follow until one stops it.
    """
    folder, options = _parse_folder(
        "logs", argv, {"--rank": True, "--follow": False, "--job": False}
    )
    jobs = status.list_jobs(folder)
    if len(jobs) > 1:
        raise UserError(
            f"{folder} holds {len(jobs)} runs; name one of them, such as {jobs[0].folder}"
        )
    home, rank = jobs[0].home, options.get("--rank", "0")
    path = home / "ranks" / f"rank-{rank}.log"
    if not rank.isdigit() or int(rank) >= jobs[0].nodes * jobs[0].ranks:
        raise UserError(
            f"--rank {rank}: the run has ranks 0 to {jobs[0].nodes * jobs[0].ranks - 1}"
        )
    if "--job" in options or not path.exists():
        sent = job_record.read_json(home / "submitted.json") or {}
        path = _job_log(jobs[0], sent.get("job"))
    at = 0
    while True:
        if path.exists():
            with open(path, "rb") as file:
                file.seek(at)
                fresh = file.read()
            os.write(1, fresh)
            at += len(fresh)
        if "--follow" not in options:
            if not path.exists():
                raise UserError(
                    f"{path} is not there yet: the job has not started; python -m slurm status "
                    f"{folder} says why"
                )
            return 0
        time.sleep(FOLLOW_S)


def _job_log(job: job_record.Job, number: str | None) -> Path:
    """Return the path of what the batch script and node 0's supervisor said."""
    base = Path(job.folder) if job.array is None else Path(job.folder).parent
    return RunFolder(base).slurm / "submitit" / f"{number}_0_log.out"


def cancel(argv: list[str]) -> int:
    """Cancel the jobs of a folder. They stay cancelled; ``requeue`` resumes them."""
    folder, _ = _parse_folder("cancel", argv, {})
    living = [state for state in status.list_states(folder) if state.alive and state.number]
    numbers = [state.number for state in living if state.number]
    if not living:
        print(f"nothing to cancel: no job of {folder} is in the queue")
        return 0
    for state in living:
        job_record.add_event(state.job.home, "cancel")
    site.ask("scancel", *numbers)
    print(f"cancelled {', '.join(numbers)}; python -m slurm requeue {shlex.quote(folder)} resumes")
    return 0


def requeue(argv: list[str]) -> int:
    """Have running jobs save and queue again; submit those again that have ended.

    They keep their own copy of the code. Of an array only the elements that have not done their
    work are submitted.
    """
    folder, _ = _parse_folder("requeue", argv, {})
    ended = []
    for state in status.list_states(folder):
        if state.word == "running" and state.number:
            site.ask("scancel", "--signal=USR2", state.number)
            print(f"job {state.number}: told to save; it goes back into the queue")
        elif state.alive:
            print(f"job {state.number} is {state.word}: nothing to do")
        elif state.word != "done":
            ended.append(state.job)
    if not ended:
        return 0
    gone = [job.code for job in ended if not os.path.isdir(job.code)]
    if gone:
        raise UserError(
            f"{gone[0]} is gone, the copy of the code that this run began with; submit it anew "
            f"with its command"
        )
    if ended[0].settings["where"] == "local" or not site.is_present():
        raise UserError(f"{folder} was run without SLURM; the same command resumes")
    for job in ended:
        job_record.refuse_others(job)
    numbers = [number for jobs in _group_alike(ended) for number in _submit_again(jobs)]
    print(f"submitted again: {', '.join(numbers)}")
    return 0


def _group_alike(jobs: list[job_record.Job]) -> list[list[job_record.Job]]:
    """Return jobs in groups that one script serves: those that asked for the same."""
    groups: dict[tuple[str, int, str], list[job_record.Job]] = {}
    for job in jobs:
        asked = job.code, job.nodes, json.dumps(job.settings, sort_keys=True)
        groups.setdefault(asked, []).append(job)
    return list(groups.values())


def _submit_again(jobs: list[job_record.Job]) -> list[str]:
    base = jobs[0].folder if jobs[0].array is None else os.path.dirname(jobs[0].folder)
    return submit.submit_jobs(
        submit.make_executor(from_flat(jobs[0].settings), base, jobs[0]), jobs
    )


def _parse_folder(
    command: str, argv: list[str], known: dict[str, bool]
) -> tuple[str, dict[str, str]]:
    """Return (folder, {option: value}) of a command's words.

    Args:
        known: {option: whether it takes a value}.
    """
    paths, options, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        if word in known:
            if known[word] and not words:
                raise UserError(f"{command}: {word} wants a value")
            options[word] = words.pop(0) if known[word] else ""
        elif word.startswith("--"):
            raise UserError(
                f"{command}: {word} is none of its options"
                + (f": {', '.join(known)}" if known else "")
            )
        else:
            paths.append(word)
    if len(paths) != 1:
        raise UserError(f"{command} wants one folder, that of a run; {len(paths)} are given")
    return paths[0], options
