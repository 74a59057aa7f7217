"""Results of a run as Markdown: the referee's file and evaluations, and what is worst in them.

The referee's file is laid out as it comes, whatever it holds, so that no number of it is left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import UserError, explain, failure_of
from engine.run.run_folder import RunFolder
from finetune.referee.rows import MEAN, RUN, TURNED

RESULTS = "evaluation.json"
WORST = 3
MEAN_ROWS = (TURNED, MEAN)
TOLD_BY = "pck_0.2"  # by which the worst clips are told


def read_results(path: Path) -> dict[str, Any] | None:
    """Return the object of a JSON file of results, None where there is no file.

    Raises:
        UserError: it is none.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no results")
    return tree


def list_evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations that lie in a run's folder."""
    places = [run / "evaluation" / RESULTS, *sorted(run.glob(f"evaluation-*/{RESULTS}"))]
    places += sorted(RunFolder(run).evaluations.glob(f"*/{RESULTS}"))
    found = [read_results(path) for path in places]
    return [one for one in found if one is not None]


def lay_out(tree: Mapping[str, Any], level: int) -> Iterator[str]:
    """Yield the Markdown of a tree of results: a table where it is one, else a heading a branch.

    Args:
        level: of the headings.
    """
    plain = _list_cells(tree)
    yield from [f"- {_word(name)}: {_cell(value)}" for name, value in plain.items()]
    if plain:
        yield ""
    rest = {name: value for name, value in tree.items() if not _is_cell(value)}
    if rest and all(_is_row(value) for value in rest.values()):
        yield from _table(rest)
        return
    if len(rest) > 1 and all(_has_one_table(value) for value in rest.values()):
        yield from _merge_tables(rest)
        return
    for name, value in rest.items():
        yield f"{'#' * level} {_word(name)}"
        yield ""
        if isinstance(value, Mapping):
            yield from lay_out(value, min(level + 1, 6))
        else:
            yield from [f"- {_cell(part)}" for part in value]
            yield ""


def _is_cell(value: Any) -> bool:
    if isinstance(value, Mapping):  # a row of the referee's is called "mean" too
        return isinstance(value.get("mean"), (int, float))
    if isinstance(value, (list, tuple)):
        return len(value) <= 4 and all(not isinstance(part, (Mapping, list)) for part in value)
    return True


def _list_cells(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of a tree is no branch; a text that says nothing is left out."""
    return {name: value for name, value in tree.items() if _is_cell(value) and value != ""}


def _has_one_table(value: Any) -> bool:
    """Whether a branch is single numbers and one table, as that of a clip is."""
    if not isinstance(value, Mapping):
        return False
    branches = [part for part in value.values() if not _is_cell(part)]
    return len(branches) == 1 and _is_table(branches[0])


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_row, value.values()))


def _merge_tables(branches: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One table of the single numbers of branches, and one of all their tables."""
    numbers = {name: _list_cells(branch) for name, branch in branches.items()}
    if all(numbers.values()):
        yield from _table(numbers)
    rows = {}
    for name, branch in branches.items():
        for part in branch.values():
            if not _is_cell(part):
                rows |= {f"{name}: {row}": values for row, values in part.items()}
    yield from _table(rows)


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_cell, value.values()))


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A row each; the other way round where that is narrower."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(columns) > max(len(rows), 8):
        turned = {c: {r: row[c] for r, row in rows.items() if c in row} for c in columns}
        rows, columns = turned, list(rows)
    yield f"| | {' | '.join(map(_word, columns))} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in rows.items():
        cells = [_cell(row[column]) if column in row else "" for column in columns]
        yield f"| {_word(name)} | {' | '.join(cells)} |"
    yield ""


def _word(name: str) -> str:
    return str(name).replace("|", "/").replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        text = _cell(value["mean"])
        if value.get("low") is not None and value.get("high") is not None:
            text += f" [{_cell(value['low'])}, {_cell(value['high'])}]"
        others = [name for name in value if name not in ("mean", "low", "high")]
        words = {name: "n =" if name == "people" else _word(name) for name in others}
        more = ", ".join(f"{words[name]} {_cell(value[name])}" for name in others)
        return f"{text} ({more})" if more else text
    if isinstance(value, (list, tuple)):
        return " / ".join(map(_cell, value))
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "/")


def describe_evaluation(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the Markdown of an evaluation: its table, command, machine and notes."""
    yield f"Step {found.get('step')}, {found.get('clips')} clips, {found.get('crops')} crops."
    yield ""
    metrics = {metric["key"]: metric for metric in found.get("metrics", ())}
    titles = [f"{one['name']} {one['unit']}".strip() for one in metrics.values()]
    yield f"| | {' | '.join(titles)} |"
    yield "|---" * (len(titles) + 1) + "|"
    for row in found.get("rows", ()):
        values = row.get("values", {})
        cells = [_cell(values[key]) if key in values else "" for key in metrics]
        yield f"| {_word(row.get('name', ''))} | {' | '.join(cells)} |"
    yield ""
    yield from [f"- {note}" for note in found.get("notes", ())]
    yield ""


def list_weaknesses(referee: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on what the referee found worst, none where it has not judged.

    The worst joints and clips, and the measures in which a mean pose is at least as good.
    """
    if referee is None:
        return []
    found = []
    joints = _branch(referee, "joints", RUN)
    shares = {name: _last(value) for name, value in joints.items()}
    worst = _lowest({name: value for name, value in shares.items() if value is not None})
    if worst:
        found.append(f"The worst joints (share within 0.2 of the box): {_list_shares(worst)}.")
    clips = referee.get("clips")
    if isinstance(clips, Mapping):
        own = {name: _branch(clip, "rows", RUN) or clip for name, clip in clips.items()}
        told = {name: _mean(row, TOLD_BY) for name, row in own.items()}
        worst = _lowest({name: value for name, value in told.items() if value is not None})
        if worst:
            found.append(f"The worst clips (PCK@0.2): {_list_shares(worst)}.")
    for name, group in _branch(referee, "groups").items():
        lost = _list_lost(_branch(group, "rows"))
        if lost:
            found.append(f"Of '{name}' no better than a mean pose in: {', '.join(lost)}.")
    return found


def _list_lost(rows: Mapping[str, Any]) -> list[str]:
    """Measures in which a mean pose is at least as good as the run."""
    lost = []
    for metric in _branch(rows, RUN):
        lower_is_better = "mpjpe" in metric
        here = _mean(rows[RUN], metric)
        theirs = [_mean(rows.get(row), metric) for row in MEAN_ROWS]
        known = [value for value in theirs if value is not None]
        if here is None or not known:
            continue
        best = min(known) if lower_is_better else max(known)
        if (best <= here) if lower_is_better else (best >= here):
            lost.append(f"{_word(metric)} ({_cell(here)}, mean pose {_cell(best)})")
    return lost


def _branch(tree: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def _mean(row: Any, metric: str) -> float | None:
    value = _branch(row, metric).get("mean")
    return float(value) if isinstance(value, (int, float)) else None


def _last(value: Any) -> float | None:
    last = value[-1] if isinstance(value, Sequence) and value else None
    return float(last) if isinstance(last, (int, float)) else None


def _lowest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: item[1])[:WORST]


def _list_shares(shares: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{_word(name)} {value:.2f}" for name, value in shares)
