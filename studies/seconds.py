"""What a step of each arm's pre-training takes.

Side by side in one run on a machine that does nothing else.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.distributed import hardware
from engine.errors import UserError
from engine.logging.console import get_logger
from engine.run.run_folder import RunFolder
from studies import plan
from studies.config import StudyConfig

log = get_logger(__name__)

STEPS, EVERY, ROUNDS = 200, 50, 3


def measure_seconds(config: StudyConfig) -> None:
    """Measure the seconds of a step of all pre-trained arms that arm= names.

    One run after another, ROUNDS times in turn.

    Raises:
        UserError: the set of train. is not made, or a run fails.
    """
    if not plan.train_folder(config).is_dir():
        raise UserError(
            f"{plan.train_folder(config)} is not made yet; the study makes it before its first row"
        )
    words = {
        name: plan.pretrain_words(config, plan.Row(name, 0, config.shares[0]))
        for name in config.chosen
    }
    words = {name: one for name, one in words.items() if one and not config.arms[name].weights}
    found = {name: [] for name in words}
    for _ in range(ROUNDS):
        for name, one in words.items():
            found[name].append(_step(one))
            log.info("%s: %.1f ms a step", name, 1000 * found[name][-1])
    operations = {name: plan.count_operations(one[2:])[0] for name, one in words.items()}
    line = {
        "format": 1,
        "machine": hardware.describe(),
        "steps": STEPS,
        "seconds": found,
        "operations": operations,
    }
    plan.open_table(config).add("seconds", line)


def _step(words: list[str]) -> float:
    """Return the seconds of a step of a short run of a pre-training command.

    Its first EVERY steps are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        more = [
            f"run={folder}/run",
            f"steps={STEPS}",
            "optim.warmup=1",
            f"log.every={EVERY}",
            "log.val_every=0",
            f"checkpoint.every={STEPS}",
        ]
        process = subprocess.run(
            [sys.executable, "-m", *words, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if process.returncode:
            raise UserError(
                f"exit code {process.returncode}: {' '.join(words)}: "
                f"{process.stdout.strip().splitlines()[-1:]}"
            )
        lines = [
            json.loads(line)
            for line in RunFolder(Path(folder) / "run").log.read_text(encoding="utf-8").splitlines()
        ]
    spent = [
        (line["pairs"] - before["pairs"]) / line["speed/pairs_per_s"]
        for before, line in itertools.pairwise(lines)
    ]
    return sum(spent) / (STEPS - EVERY)


def make_table(config: StudyConfig) -> str | None:
    """Return Markdown, or None where nothing was measured."""
    found = plan.open_table(config).find("seconds")
    if found is None:
        return None
    medians = {
        name: statistics.median(values)
        for name, values in found["seconds"].items()
        if name in config.arms
    }
    base = next(iter(medians))
    lines = [
        f"A step of pre-training, each arm alone on the machine ({found['machine']}), one thread "
        f"and the loader's, "
        f"{found['steps']} steps, medians of {len(found['seconds'][base])} turns:",
        "",
        "| arm | ms a step | times the first | its operations, times the first |",
        "|---|---|---|---|",
    ]
    for name, value in medians.items():
        lines.append(
            f"| {config.arms[name].title or name} | {1000 * value:.0f} | "
            f"{value / medians[base]:.2f} | "
            f"{found['operations'][name] / found['operations'][base]:.2f} |"
        )
    return "\n".join(lines)
