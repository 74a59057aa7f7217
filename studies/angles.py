"""How much the reference lowers the loss, by the angle between the two cameras.

Of pre-trained arms, on the test set.
"""

import dataclasses

import numpy as np

from engine.errors import UserError
from studies import plan
from studies.config import StudyConfig

BINS = ((5, 30), (30, 60), (60, 90), (90, 180))  # degrees
PAIRS = 400  # at most, of each
GAIN = "reference_gain/cross_view_person"


def measure_angles(config: StudyConfig) -> None:
    """Measure each pre-trained arm and seed that is not in the table yet.

    What ``measure_run`` finds.
    """
    table, done = plan.open_table(config), plan.find_done(config)
    test = str(plan.test_folder(config, next(iter(config.tests))))
    for row in _rows(config):
        words = plan.pretrain_words(config, row)
        if words is None or row not in done:
            continue
        if table.find("angles", arm=row.arm, seed=row.seed):
            continue
        found = []
        for bounds in BINS:
            numbers = measure_run(words, test, bounds)
            found.append({name: round(value, 4) for name, value in numbers.items()})
        line = {"arm": row.arm, "seed": row.seed, "bins": BINS, "found": found}
        table.add("angles", line)


def measure_run(words: list[str], shards: str, bounds: tuple[float, float]) -> dict[str, float]:
    """Return the validation loss of cross-view pairs, and what the reference gains.

    {"val/cross_view", "pairs", and of runs that use references "reference_gain/cross_view",
    ..._person}.

    Args:
        words: of its pre-training, after ``python -m``.  shards: of other people.  bounds: least
            and greatest angle, degrees.
    """
    # Imported here because it takes seconds, and tables have no use for it.
    import torch

    from data.loading.build import open_order, people_at
    from data.loading.reader import TAGS
    from data.loading.validation import val_pairs
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
    if arrays is None:
        raise UserError("the shards hold no clips that can be measured")
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


def make_table(config: StudyConfig) -> str | None:
    """Return Markdown, or None where nothing was measured."""
    found: dict[str, list] = {}
    table = plan.open_table(config)
    for row in _rows(config):
        line = table.find("angles", arm=row.arm, seed=row.seed)
        if line:
            found.setdefault(row.arm, []).append(line["found"])
    if not found:
        return None
    lines = [
        f"Loss on cross-view pairs of *{next(iter(config.tests))}* by the angle between the "
        f"cameras, mean over seeds; in "
        f"parentheses the reference gain on the person, loss with a mismatched reference minus "
        f"loss with the true one:",
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


def _rows(config: StudyConfig) -> list[plan.Row]:
    """Return a row for each arm and seed."""
    return list({(row.arm, row.seed): row for row in plan.list_rows(config)}.values())
