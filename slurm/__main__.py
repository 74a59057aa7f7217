"""``python -m slurm COMMAND ...``: submit a command of another package, and look after what was
submitted."""

from engine.cli import run

USAGE = """usage: python -m slurm COMMAND CONFIG.yaml [key=value ...] [slurm.key=value ...] [--dry-run]
  COMMAND: pretrain, finetune train, data make, data pairs; and without a config file:
           finetune evaluate run=RUN ..., pretrain probe RUN shards=DIR ...
  slurm.site=FILE      a site's settings (configs/slurm/), or the variable COUNTERPOSE_SITE
  sweep.KEY=A,B,C      one run for each value, each in a folder of its own; several keys: all combinations
  checkpoints=all      finetune evaluate, pretrain probe: one job for each checkpoint of the run, or for checkpoints=STEP,STEP
  evaluate.every=N     training: an evaluation of every N steps' checkpoint in a job of its own (slurm.evaluate. keys), its
                       numbers in the run's log
  --dry-run            print the script and the resolved config, submit nothing
       python -m slurm status [RUN]                 how it goes: with one run's or sweep's folder, or all jobs in the queue
       python -m slurm logs RUN [--rank N | --job] [--follow]
       python -m slurm evaluate RUN                 submits evaluations of a run's checkpoints that failed or were never sent
       python -m slurm cancel RUN                   it stays cancelled
       python -m slurm requeue RUN                  a running one saves and queues again; an ended one resumes

slurm. keys and their defaults:"""


def main(argv: list[str]) -> int:
    """Run one of the commands; return the exit code."""
    # Imported when they are wanted: submitit takes a second.
    if not argv or "--help" in argv or "-h" in argv:
        from engine.config.parser import help_text
        from slurm.config import SlurmConfig

        print(USAGE)
        print(help_text(SlurmConfig, "slurm").split("\n\nkeys and their defaults:\n", 1)[1])
        return 0
    if argv[0] == "status":
        from slurm.status.status import main as command
    elif argv[0] == "evaluate":
        from slurm.submit.evaluate import main as command
    elif argv[0] in ("logs", "cancel", "requeue"):
        from slurm.status import manage

        command = getattr(manage, argv[0])
    else:
        from slurm.submit.submit import main as submit

        return submit(argv)
    return command(argv[1:])


if __name__ == "__main__":
    run(main)
