"""What ``evaluation.json`` says, as a table to read and as sentences on what it can and cannot
show."""

from finetune.evaluation.metrics import DRAWS

FEW_CLIPS = (
    30  # with fewer, percentile intervals are too narrow: see finetune.evaluation.metrics.bootstrap
)
WINS, LOSES, CANNOT_TELL = "wins", "loses", "cannot tell"


LEAK = "leakage not excluded"  # beside the name of a row whose weights may have seen the test clips


def table(evaluation):
    """A Markdown table: a row for each of ``rows`` in their order, a column a metric; the best
    means of a column are bold.

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


def interval(value, unit):
    """``{"mean", "low", "high"}`` as "mean [low, high]", mm to a tenth and shares to a thousandth;
    "-" for None."""
    if value is None:
        return "-"
    digits = _digits(unit)
    bounds = (
        "no interval"
        if value["low"] is None
        else f"{value['low']:.{digits}f}, {value['high']:.{digits}f}"
    )
    return f"{value['mean']:.{digits}f} [{bounds}]"


def best_rows(evaluation, metric):
    """Keys of the rows whose mean of a metric is best as written in the table: several where the
    table cannot tell them.

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


def verdict(difference, better):
    """What "this run minus without pre-training" says of pre-training: WINS, LOSES, or CANNOT_TELL
    if it may be 0.

    Args:
        difference: {"mean", "low", "high"}, bounds None where there is no interval.  better:
            "lower" or "higher".
    """
    low, high = difference["low"], difference["high"]
    if low is None or low <= 0 <= high:
        return CANNOT_TELL
    return WINS if (high < 0) == (better == "lower") else LOSES


def sentences(evaluation, made):
    """What the table can and cannot show, a sentence or a few an entry.

    Args:
        evaluation: the dict of evaluation.json; its ``notes`` are not read.
        made: whether the crops show made people and not photographed ones.
    """
    return [
        _counts(evaluation),
        _definitions(evaluation),
        *_pretraining(evaluation),
        *_best(evaluation),
        *_mean_pose(evaluation),
        *_people(made),
        *_overlap(evaluation),
    ]


def _counts(evaluation):
    crops, clips = evaluation["crops"], evaluation["clips"]
    text = f"{_count(crops, 'crop')} of {_count(clips, 'held-out clip')}; each value is the mean over the crops."
    if clips == 1:
        return f"{text} One clip gives no interval: nothing here can be told from chance."
    text += f" In brackets: its 95 % interval, from {DRAWS:,} draws of whole clips, because the crops of one clip are alike."
    return (
        f"{text} With fewer than {FEW_CLIPS} clips such intervals are too narrow."
        if clips < FEW_CLIPS
        else text
    )


def _definitions(evaluation):
    root = {"body": "pelvis", "hand": "wrist"}[evaluation["kind"]]
    text = (
        f"MPJPE (keypoints) and PVE (the surface: vertices by their share of the true mesh's area) "
        f"are measured with the "
        f"{root} of both meshes put in one place, so they say nothing of the distance to the "
        f"camera; PA-MPJPE and PA-PVE "
        "also forgive turn and size. A plain mean counts all vertices alike, as papers' protocols "
        "do: by it the parts of "
        "finest mesh count most, and it compares with numbers of the same mesh alone."
    )
    higher = [m["name"] for m in evaluation["metrics"] if m["better"] == "higher"]
    return (
        f"{text} Lower is better, but higher for {_listed(higher)}."
        if higher
        else f"{text} Lower is better."
    )


def _pretraining(evaluation):
    differences = evaluation.get("differences")
    if not differences:
        yield (
            "There is no row without pre-training: this table does not show what pre-training "
            "gives. This run is one "
            "training run with one seed."
        )
        return
    found = {WINS: [], LOSES: [], CANNOT_TELL: []}
    for metric in evaluation["metrics"]:
        if metric["key"] in differences:
            difference = differences[metric["key"]]
            found[verdict(difference, metric["better"])].append(
                f"{metric['name']} ({_signed(difference, metric['unit'])})"
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
        yield f"Pre-training loses in {_listed(found[LOSES])}: {_which(found[LOSES])} excludes zero."
    if found[CANNOT_TELL]:
        undefined = any(difference["low"] is None for difference in differences.values())
        reason = (
            "there is no interval" if undefined else f"{_which(found[CANNOT_TELL])} includes zero"
        )
        yield f"Cannot tell whether pre-training helps in {_listed(found[CANNOT_TELL])}: {reason}."


def _best(evaluation):
    """Where another row has a better mean than this run."""
    names, beaten = {row["key"]: row["name"] for row in evaluation["rows"]}, {}
    for metric in evaluation["metrics"]:
        best = best_rows(evaluation, metric)
        if best and "model" not in best:
            beaten.setdefault(_listed([f"'{names[key]}'" for key in best]), []).append(
                metric["name"]
            )
    for rows, metrics in beaten.items():
        yield f"The best {_listed(metrics)} in the table {'is' if len(metrics) == 1 else 'are'} not of this run but of {rows}."


def _mean_pose(evaluation):
    names = {row["key"]: row["name"] for row in evaluation["rows"]}
    if "turned" in names:
        yield f"'{names['turned']}' is a fixed pose and shape, told the root's true orientation, which the run has to find."
    if "mean" in names:
        yield f"'{names['mean']}' is a fixed pose, shape and orientation: it knows nothing of the image."


def _people(made):
    if made:
        yield (
            "The crops show made people, who are not real people; those of the demo's easy domain "
            "also stand upright and "
            "face the camera. Errors on photographs cannot be told from this, nor compared with "
            "those in papers."
        )


def _overlap(evaluation):
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


def _signed(difference, unit):
    """ "-3.1 mm [-5.0, -1.2]", with more digits where a bound that is not 0 would be written as
    0."""
    digits, values = _digits(unit), [difference["mean"], difference["low"], difference["high"]]
    while digits < 9 and any(value and not round(value, digits) for value in values[1:]):
        digits += 1
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    mean, low, high = (
        value if value is None else f"{round(value, digits) + 0.0:+.{digits}f}" for value in values
    )
    bounds = "no interval" if low is None else f"{low}, {high}"
    return f"{mean}{' ' * bool(unit)}{unit} [{bounds}]"


def _digits(unit):
    return 1 if unit == "mm" else 3


def _which(found):
    return "the interval" if len(found) == 1 else "each interval"


def _listed(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number, word):
    return f"{number:,} {word}{'s' * (number != 1)}"
