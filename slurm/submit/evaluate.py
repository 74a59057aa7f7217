"""``python -m slurm evaluate RUN``: jobs for the checkpoints of a run that are due and of which no
numbers are there.

A run's leading supervisor calls it with --due for each new checkpoint, in a process of its own:
submitit takes a second, and the supervisor must stay quick. A person calls it for what has failed.
"""

import os
import sys
from pathlib import Path

from engine.cli import run as run_command
from engine.config.parser import flat
from engine.errors import EnvironmentFault, Failure, UserError
from engine.training import eval_jobs
from slurm import job_record, site
from slurm.config import from_flat
from slurm.submit import submit
from slurm.supervisor.allocation import OF_JOBS, OF_SITE


def main(argv):
    """Returns the exit code.

    Raises:
        UserError: a job was refused.  EnvironmentFault: the controller was not reached.
    """
    words = [word for word in argv if word != "--due"]
    if len(words) != 1:
        raise UserError(f"evaluate wants one folder, that of a run; {len(words)} are given")
    job = job_record.load(words[0])
    job_record.refuse_others(job)
    if not job.evaluation:
        raise UserError(
            f"{job.folder} is no training run with evaluate.every= above 0; python -m slurm "
            f"finetune evaluate and "
            f"pretrain probe take checkpoints=all"
        )
    if "--due" not in argv and not site.present():
        words = " ".join(job.evaluation["words"])
        raise UserError(
            f"sbatch is not on PATH: this machine has no SLURM; python -m {words} evaluates one "
            f"here"
        )
    steps = unsent(job) if "--due" in argv else _without_numbers(job)
    refused = None
    for step in steps:
        try:
            print(f"step {step}: job {_send(job, step)}", flush=True)
        except EnvironmentFault:
            # the controller is away for a moment: nothing has failed, the next call sends what is
            # left
            raise
        except Failure as error:
            refused = refused or error
            eval_jobs.fail(job.folder, step, f"not submitted: {error}")
    if refused:
        # The same words for each checkpoint, for the supervisor says the same once.
        raise UserError(
            f"{refused}; evaluations that were not submitted count as failed until python -m slurm "
            f"evaluate "
            f"{job.folder} is called where sbatch works"
        )
    if not steps:
        print("no checkpoint that is there is without an evaluation")
    return 0


def unsent(job):
    """Steps of a training Job that are due, of which nothing came yet, and that have no job."""
    steps = eval_jobs.outstanding(job.folder, job.evaluation["every"], job.evaluation["steps"])
    return [step for step in steps if number_of(job.folder, step) is None]


def sent(job):
    """{step: job number} of evaluations that were submitted and of which nothing came yet."""
    steps = eval_jobs.outstanding(job.folder, job.evaluation["every"], job.evaluation["steps"])
    return {step: number for step in steps if (number := number_of(job.folder, step)) is not None}


def number_of(run, step):
    """The number of the job that evaluates a step, or None."""
    return (job_record.read(eval_jobs.place(run, step) / "slurm" / "submitted.json") or {}).get(
        "job"
    )


def _without_numbers(job):
    """Steps that are due and there, whose numbers are not, and no job is at it."""
    known, out = eval_jobs.outcomes(job.folder), []
    for step in eval_jobs.whole(job.folder):
        if eval_jobs.due(
            step, job.evaluation["every"], job.evaluation["steps"]
        ) and "numbers" not in known.get(step, {}):
            number = number_of(job.folder, step)
            if number is None or site.state(number) not in site.ALIVE:
                out.append(step)
    return out


def _send(run, step):
    """Submit the evaluation of one step; returns the job's number."""
    if not site.present():
        raise UserError("sbatch is not on PATH here")
    folder = eval_jobs.place(run.folder, step)
    words = [
        word.replace("{checkpoint}", str(eval_jobs.checkpoint_of(run.folder, step)))
        for word in run.evaluation["words"]
    ]
    settings = from_flat(run.settings)
    settings = settings.for_evaluation(
        f"{settings.name or os.path.basename(run.folder)}-{folder.name}"
    )
    devices = [word for word in words if word.startswith("device=")]
    if settings.gpus_per_node and devices[-1:] == ["device=auto"]:
        words.append("device=cuda")  # as slurm.submit.job_specs.demand_gpu
    # The first two words are the command, as those of all rooms that evaluate.
    job = job_record.Job(
        words[:2],
        words[2:],
        str(folder),
        run.cwd,
        run.code,
        run.python,
        False,
        1,
        1,
        flat(settings),
        anew=True,
    )
    job.save()
    eval_jobs.file_of(run.folder, step).unlink(missing_ok=True)  # of an attempt that failed
    return submit.submit(submit.make_executor(settings, str(folder), job), [job])[0]


def environment():
    """The variables of this process without those of the job that it runs in."""
    own = (*OF_JOBS, "SBATCH_")  # the last are the run's: what it asks for is in its record
    return {
        name: value
        for name, value in os.environ.items()
        if name in OF_SITE or not name.startswith(own)
    }


def command(job):
    """The words that start this module from a job's copy of the code."""
    return [
        sys.executable,
        str(Path(job.code) / "slurm" / "launch.py"),
        "slurm.submit.evaluate",
        job.folder,
        "--due",
    ]


if __name__ == "__main__":
    run_command(main)
