"""``python -m slurm evaluate RUN``: jobs for the checkpoints of a run that are due.

They are those of which no numbers are there.

A run's coordinator calls it with --due for each new checkpoint. A person calls it for what has
failed.
"""

import os
from typing import Any

from engine.checkpoint.history import list_complete
from engine.cli import run as run_command
from engine.config.parser import flat
from engine.errors import EnvironmentFault, Failure, UserError
from engine.training import eval_jobs
from slurm import commands, evaluations, job_record, site
from slurm.config import from_flat
from slurm.submit import submit


def main(argv: list[str]) -> int:
    """Submit what is to be evaluated; return the exit code.

    Raises:
        UserError: a job was refused.  EnvironmentFault: the controller was not reached.
    """
    words = [word for word in argv if word != "--due"]
    if len(words) != 1:
        raise UserError(f"evaluate wants one folder, that of a run; {len(words)} are given")
    job = job_record.load_job(words[0])
    job_record.refuse_others(job)
    if not job.evaluation:
        raise UserError(
            f"{job.folder} is no training run with evaluate.every= above 0; python -m slurm "
            f"finetune evaluate and pretrain probe take checkpoints=all"
        )
    if "--due" not in argv and not site.is_present():
        command = " ".join(job.evaluation["words"])
        raise UserError(
            f"sbatch is not on PATH: this machine has no SLURM; python -m {command} evaluates one "
            f"here"
        )
    steps = (
        evaluations.find_unsent(job)
        if "--due" in argv
        else _find_without_numbers(job, job.evaluation)
    )
    refused = None
    for step in steps:
        try:
            print(f"step {step}: job {_send(job, job.evaluation['words'], step)}", flush=True)
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


def _find_without_numbers(job: job_record.Job, evaluation: dict[str, Any]) -> list[int]:
    """Return steps that are due and there, whose numbers are not, and no job is at it."""
    known, out = eval_jobs.outcomes(job.folder), []
    every, steps = evaluation["every"], evaluation["steps"]
    for step in list_complete(job.folder):
        if not eval_jobs.due(step, every, steps) or "numbers" in known.get(step, {}):
            continue
        number = evaluations.job_number(job.folder, step)
        if number is None or site.read_state(number) not in site.ALIVE:
            out.append(step)
    return out


def _send(run: job_record.Job, words: list[str], step: int) -> str:
    """Submit the evaluation of one step; return the job's number.

    Args:
        words: of the evaluating command, with {checkpoint} for the checkpoint's path.
    """
    if not site.is_present():
        raise UserError("sbatch is not on PATH here")
    folder = eval_jobs.place(run.folder, step)
    checkpoint = str(eval_jobs.checkpoint_of(run.folder, step))
    words = [word.replace("{checkpoint}", checkpoint) for word in words]
    settings = from_flat(run.settings)
    settings = settings.for_evaluation(
        f"{settings.name or os.path.basename(run.folder)}-{folder.name}"
    )
    devices = [word for word in words if word.startswith("device=")]
    if settings.gpus_per_node and devices[-1:] == ["device=auto"]:
        words.append("device=cuda")  # as slurm.submit.job_specs.demand_gpu
    command, arguments = commands.split_words(words)
    job = job_record.Job(
        words=list(command),
        arguments=arguments,
        folder=str(folder),
        cwd=run.cwd,
        code=run.code,
        python=run.python,
        training=False,
        nodes=1,
        ranks=1,
        settings=flat(settings),
        anew=True,
    )
    job.save()
    eval_jobs.file_of(run.folder, step).unlink(missing_ok=True)  # of an attempt that failed
    return submit.submit_jobs(submit.make_executor(settings, str(folder), job), [job])[0]


if __name__ == "__main__":
    run_command(main)
