"""What ``evaluation.json`` says, as a table to read and as sentences.

These say what it can and cannot show.
"""

from collections.abc import Iterator, Sequence

from finetune.evaluation.metrics import DRAWS, Interval

FEW_CLIPS = (
    30  # with fewer, percentile intervals are too narrow: see finetune.evaluation.metrics.bootstrap
)
WINS, LOSES, NOT_SIGNIFICANT = "wins", "loses", "not significant"


LEAK = "leakage not excluded"  # beside the name of a row whose weights may have seen the test clips


def table(evaluation: dict) -> str:
    """Returns a Markdown table: a row for each of ``rows`` in their order, a column a metric.

    The best means of a column are bold.

    What is not known of what the weights saw is said above it.

    Args:
        evaluation: the dict of evaluation.json.
    Returns:
        lines of one text, padded so that it also reads in a terminal.
    """
    metrics = evaluation["metrics"]
    best = {m["key"]: best_rows(evaluation, m) for m in metrics}
    lines = [["", *(f"{m['name']} ({m['unit']})" if m["unit"] else m["name"] for m in metrics)]]
    for row in evaluation["rows"]:
        cells = [row["name"].replace("|", "\\|")]
        for metric in metrics:
            text = interval(row["values"].get(metric["key"]), metric["unit"])
            if row["key"] in best[metric["key"]]:
                mean, bounds = text.split(" ", 1)
                text = f"**{mean}** {bounds}"
            cells.append(text)
        lines.append(cells)
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    rows = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    return "\n".join(
        [*(f"**Warning: {words}**\n" for words in evaluation.get("warnings", [])), *rows]
    )


def interval(value: Interval | None, unit: str) -> str:
    """Return ``{"mean", "low", "high"}`` as "mean [low, high]"; "-" for None.

    Mm to a tenth and shares to a thousandth.
    """
    if value is None:
        return "-"
    digits = _digits(unit)
    bounds = (
        "no interval"
        if value["low"] is None
        else f"{value['low']:.{digits}f}, {value['high']:.{digits}f}"
    )
    return f"{value['mean']:.{digits}f} [{bounds}]"


def best_rows(evaluation: dict, metric: dict[str, str]) -> list[str]:
    """Return keys of the rows whose mean of a metric is best as written in the table.

    Several where the table shows no difference.

    Args:
        evaluation: the dict of evaluation.json.  metric: an entry of its ``metrics``.
    """
    means = {
        row["key"]: round(row["values"][metric["key"]]["mean"], _digits(metric["unit"]))
        for row in evaluation["rows"]
        if metric["key"] in row["values"]
    }
    best = (min if metric["better"] == "lower" else max)(means.values(), default=None)
    return [key for key, mean in means.items() if mean == best]


def verdict(difference: Interval, better: str) -> str:
    """Return what "this run minus without pre-training" says of pre-training.

    WINS, LOSES, or NOT_SIGNIFICANT if it may be 0.

    Args:
        difference: {"mean", "low", "high"}, bounds None where there is no interval.  better:
            "lower" or "higher".
    """
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return NOT_SIGNIFICANT
    return WINS if (high < 0) == (better == "lower") else LOSES


def sentences(evaluation: dict, made: bool) -> list[str]:
    """Returns what the table can and cannot show, a sentence or a few an entry.

    Args:
        evaluation: the dict of evaluation.json; its ``notes`` are not read.
        made: whether the crops show synthetic humans and not photographed ones.
    """
    return [
        _counts(evaluation),
        _definitions(evaluation),
        *_pretraining(evaluation),
        *_compared(evaluation),
        *_best(evaluation),
        *_mean_pose(evaluation),
        *_people(made),
        *_overlap(evaluation),
    ]


def _counts(evaluation: dict) -> str:
    crops, clips = evaluation["crops"], evaluation["clips"]
    counts = f"{_count(crops, 'crop')} of {_count(clips, 'test clip')}"
    text = f"{counts}; each value is the mean over the crops."
    if clips == 1:
        return f"{text} One clip gives no interval: no difference here is significant."
    text += (
        f" In brackets: its 95 % interval, from {DRAWS:,} draws of whole clips, because the crops "
        f"of one clip are alike."
    )
    return (
        f"{text} With fewer than {FEW_CLIPS} clips such intervals are too narrow."
        if clips < FEW_CLIPS
        else text
    )


def _definitions(evaluation: dict) -> str:
    root = {"body": "pelvis", "hand": "wrist"}[evaluation["kind"]]
    text = (
        f"MPJPE (keypoints) and PVE (the surface: vertices by their share of the true mesh's area) "
        f"are measured with the "
        f"{root} of both meshes put in one point, so they say nothing of the distance to the "
        f"camera; PA-MPJPE and PA-PVE "
        "also forgive rotation and size. A plain mean counts all vertices alike, as published "
        "protocols do: by it the parts of "
        "finest mesh count most, and it compares with numbers of the same mesh alone."
    )
    higher = [m["name"] for m in evaluation["metrics"] if m["better"] == "higher"]
    return (
        f"{text} Lower is better, but higher for {_listed(higher)}."
        if higher
        else f"{text} Lower is better."
    )


def _pretraining(evaluation: dict) -> Iterator[str]:
    differences = evaluation.get("differences")
    if not differences:
        yield (
            "There is no row without pre-training: this table does not show what pre-training "
            "gives. This run is one "
            "training run with one seed."
        )
        return
    found = {WINS: [], LOSES: [], NOT_SIGNIFICANT: []}
    for metric in evaluation["metrics"]:
        if metric["key"] in differences:
            difference = differences[metric["key"]]
            found[verdict(difference, metric["better"])].append(
                f"{metric['name']} ({word_signed(difference, metric['unit'])})"
            )
    yield (
        "Differences are this run minus the one without pre-training, crop by crop on the same "
        "crops, with 95 % intervals. "
        "Each of the two is one training run with one seed: the intervals tell what other clips "
        "would change, not what "
        "another seed would."
    )
    if found[WINS]:
        yield f"Pre-training wins in {_listed(found[WINS])}: {_which(found[WINS])} excludes zero."
    if found[LOSES]:
        names = _listed(found[LOSES])
        yield f"Pre-training loses in {names}: {_which(found[LOSES])} excludes zero."
    if found[NOT_SIGNIFICANT]:
        undefined = any(difference["low"] is None for difference in differences.values())
        reason = (
            "there is no interval"
            if undefined
            else f"{_which(found[NOT_SIGNIFICANT])} includes zero"
        )
        names = _listed(found[NOT_SIGNIFICANT])
        yield f"No significant difference by pre-training in {names}: {reason}."


def _compared(evaluation: dict) -> Iterator[str]:
    """What this run minus another answer of the same network says, a sentence a row and verdict."""
    names = {row["key"]: row["name"] for row in evaluation["rows"]}
    for row, differences in evaluation.get("compared", {}).items():
        found: dict[str, list[str]] = {}
        for metric in evaluation["metrics"]:
            difference = differences[metric["key"]]
            words = f"{metric['name']} ({word_signed(difference, metric['unit'])})"
            found.setdefault(verdict(difference, metric["better"]), []).append(words)
        for said, words in found.items():
            yield f"This run minus '{names[row]}', crop by crop: {said} in {_listed(words)}."


def _best(evaluation: dict) -> Iterator[str]:
    """Where another row has a better mean than this run."""
    names, beaten = {row["key"]: row["name"] for row in evaluation["rows"]}, {}
    for metric in evaluation["metrics"]:
        best = best_rows(evaluation, metric)
        if best and "model" not in best:
            beaten.setdefault(_listed([f"'{names[key]}'" for key in best]), []).append(
                metric["name"]
            )
    for rows, metrics in beaten.items():
        verb = "is" if len(metrics) == 1 else "are"
        yield f"The best {_listed(metrics)} in the table {verb} not of this run but of {rows}."


def _mean_pose(evaluation: dict) -> Iterator[str]:
    names = {row["key"]: row["name"] for row in evaluation["rows"]}
    if "turned" in names:
        yield (
            f"'{names['turned']}' is a fixed pose and shape with the root's true orientation, "
            f"which the run has to find."
        )
    if "mean" in names:
        yield (
            f"'{names['mean']}' is a fixed pose, shape and orientation: it knows nothing of the "
            f"image."
        )


def _people(made: bool) -> Iterator[str]:
    if made:
        yield (
            "The crops show synthetic humans, who are not real people; those of the demo's easy "
            "domain also stand upright and "
            "face the camera. Errors on photographs do not follow from this, nor compare with "
            "published ones."
        )


def _overlap(evaluation: dict) -> Iterator[str]:
    if not any(metric["key"] == "iou" for metric in evaluation["metrics"]):
        return
    if evaluation["kind"] == "hand":
        yield (
            "IoU compares the predicted hand's silhouette with that of the true mesh, whatever "
            "hides it in the image: a "
            "perfect mesh reaches 1."
        )
    else:
        yield (
            "IoU compares the predicted body's silhouette with the image's mask of the person, "
            "which includes clothes and "
            "hair and leaves out what something hides: even the true mesh does not reach 1."
        )


def word_signed(difference: Interval, unit: str) -> str:
    """Return "-3.1 mm [-5.0, -1.2]" of a difference and its interval.

    It has more digits where a bound that is not 0 would be written as 0.
    """
    digits, values = _digits(unit), [difference["mean"], difference["low"], difference["high"]]
    while digits < 9 and any(value and not round(value, digits) for value in values[1:]):
        digits += 1
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    mean, low, high = (
        value if value is None else f"{round(value, digits) + 0.0:+.{digits}f}" for value in values
    )
    bounds = "no interval" if low is None else f"{low}, {high}"
    return f"{mean}{' ' * bool(unit)}{unit} [{bounds}]"


def _digits(unit: str) -> int:
    return 1 if unit in ("mm", "deg") else 3


def _which(found: Sequence[str]) -> str:
    return "the interval" if len(found) == 1 else "each interval"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"
