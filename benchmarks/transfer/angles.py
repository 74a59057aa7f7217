"""How much of the loss the reference takes away, by the angle between the two cameras: of
pre-trained arms, on the test set."""

import dataclasses
import json

import numpy as np

from benchmarks.transfer import plan

BINS = ((5, 30), (30, 60), (60, 90), (90, 180))  # degrees
PAIRS = 400  # at most, of each
GAIN = "reference_gain/cross_view_person"


def path_of(config, row):
    return plan.path_of(config, row).parent / "angles" / f"{row.arm}-seed{row.seed}.json"


def measure(config):
    """Write a file for each pre-trained arm and seed that has none yet: what ``of_run`` finds."""
    for row in _rows(config):
        path, words = path_of(config, row), plan.pretrain_words(config, row)
        if words is None or path.is_file() or not plan.path_of(config, row).is_file():
            continue
        found = [
            of_run(words, str(plan.test_folder(config, next(iter(config.tests)))), bounds)
            for bounds in BINS
        ]
        plan.write(
            path,
            {
                "arm": row.arm,
                "seed": row.seed,
                "bins": BINS,
                "found": [{name: round(value, 4) for name, value in one.items()} for one in found],
            },
        )


def of_run(words, shards, bounds):
    """{"val/cross_view", "pairs", and of runs that look at references
    "reference_gain/cross_view", ..._person}.

    Args:
        words: of its pre-training, after ``python -m``.  shards: of other people.  bounds: least
            and greatest angle, degrees.
    """
    # Imported here because it takes seconds, and tables have no use for it.
    import torch

    from data.loading.build import open_order, people_at, val_pairs
    from data.loading.reader import TAGS
    from engine.config.parser import parse
    from engine.distributed.process_group import Processes
    from engine.training.shares import Shares
    from pretrain import reference_gain, weights
    from pretrain.config import PretrainConfig
    from pretrain.objectives.completion import Completion

    run = parse(PretrainConfig, words[2:], "pretrain train")
    data = run.data
    data = dataclasses.replace(
        data,
        shards=shards,
        sources={},
        val_clips=0,
        lanes=None,
        kinds=dataclasses.replace(data.kinds, cross_view=1.0, cross_pose=0.0),
        pairs=dataclasses.replace(data.pairs, angle_min_deg=bounds[0], angle_max_deg=bounds[1]),
    )
    order = open_order(data, 1, 0)
    for source in order.sources:
        source.val = [
            (shard, index) for shard, count in enumerate(source.counts) for index in range(count)
        ]
    model = weights.load(run.run)
    arrays = val_pairs(order, data, model.patches, PAIRS)
    places = [TAGS.index(name) for name in ("source", "shard", "index")]
    subjects = [subject for _, subject in people_at(order, data, arrays["tags"][:, places])]
    objective = Completion(model, run, False)
    objective.begin_validation(arrays, subjects)
    found = reference_gain.evaluate(
        objective,
        arrays,
        objective.mismatched,
        lambda batch: {name: torch.from_numpy(values) for name, values in batch.items()},
        Shares(Processes(0, 1, torch.device("cpu"))),
    )
    return {**found, "pairs": len(subjects)}


def table(config):
    """Markdown, or None where there are no files."""
    found = {}
    for row in _rows(config):
        if path_of(config, row).is_file():
            found.setdefault(row.arm, []).append(
                json.loads(path_of(config, row).read_text(encoding="utf-8"))["found"]
            )
    if not found:
        return None
    lines = [
        f"Loss on cross-view pairs of *{next(iter(config.tests))}* by the angle between the "
        f"cameras, mean over seeds; in "
        f"parentheses the reference gain on the person, loss with a stranger's reference less loss "
        f"with the true one:",
        "",
        "| arm | seeds | " + " | ".join(f"{low} to {high} degrees" for low, high in BINS) + " |",
        "|" + "---|" * (2 + len(BINS)),
    ]
    for arm, runs in found.items():
        numbers = [
            {name: np.mean([one[k][name] for one in runs]) for name in runs[0][k]}
            for k in range(len(BINS))
        ]
        cells = [
            f"{one['val/cross_view']:.3f}" + (f" ({one[GAIN]:.3f})" if GAIN in one else "")
            for one in numbers
        ]
        lines.append(
            f"| {config.arms[arm].title or arm} | {len(runs)} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _rows(config):
    """A row for each arm and seed."""
    return list({(row.arm, row.seed): row for row in plan.rows(config)}.values())
