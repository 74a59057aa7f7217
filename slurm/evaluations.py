"""The evaluation jobs of a training run: which checkpoints want one, and which have one."""

from pathlib import Path

from engine.run.run_folder import RunFolder
from engine.training import eval_jobs
from slurm import job_record


def find_unsent(job: job_record.Job) -> list[int]:
    """Return steps of a run that are due, of which nothing has come yet, and that have no job."""
    return [step for step in _find_outstanding(job) if job_number(job.folder, step) is None]


def find_sent(job: job_record.Job) -> dict[int, str]:
    """Return {step: job number} of evaluations that were submitted and have not come back yet."""
    numbers = {step: job_number(job.folder, step) for step in _find_outstanding(job)}
    return {step: number for step, number in numbers.items() if number is not None}


def job_number(run: str | Path, step: int) -> str | None:
    """Return the number of the job that evaluates a step, or None."""
    submitted = job_record.read_json(RunFolder(eval_jobs.place(run, step)).slurm / "submitted.json")
    return (submitted or {}).get("job")


def _find_outstanding(job: job_record.Job) -> list[int]:
    if not job.evaluation:
        return []
    every, steps = job.evaluation["every"], job.evaluation["steps"]
    return eval_jobs.outstanding(job.folder, every, steps)
