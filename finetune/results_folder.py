"""Where the results of an evaluation go. Nothing here imports torch."""

from pathlib import Path

from engine.errors import UserError
from engine.run.run_folder import find_run, find_weights_file
from engine.training import eval_jobs
from finetune.released.locate import results_home
from finetune.verb_config import EvaluateConfig


def find_results_folder(config: EvaluateConfig) -> Path:
    """Return where the results of an evaluation go.

    ``out``, or RUN/evaluation, or for one checkpoint RUN/evaluation-step-X, with log=true
    RUN/evaluations/step-X.

    Raises:
        UserError: log=true, and ``run`` is no checkpoint.
    """
    run = Path(config.run)
    if config.out:
        return Path(config.out)
    if config.log:
        found = eval_jobs.run_of(run)
        if found is None:
            raise UserError(
                f"log=true, but run={run} is no checkpoint: RUN/checkpoints/step-X names one"
            )
        return eval_jobs.place(*found)
    weights = find_weights_file(run)
    if weights.is_file() and find_run(weights) is not None:
        return run.resolve().parents[1] / f"evaluation-{run.name}"
    return results_home(config.run) / "evaluation"
