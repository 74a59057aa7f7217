"""``python -m finetune report DIR``: one HTML page of what a folder of runs holds.

With every number and command.
"""

import os
import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.logging.page import render
from engine.logging.page.images import inline_file
from engine.run.run_folder import RunFolder
from finetune.page import curves, images, numbers
from finetune.page.folder import COMMANDS, Folder, kind_of, read_folder
from finetune.page.meshes import read_meshes
from finetune.verb_config import ReportConfig

LOOKS = Path(__file__).resolve().parent / "page"
KINDS = {"body": "bodies", "hand": "hands"}


def main(argv: Sequence[str]) -> int:
    """Write the page; returns the exit code."""
    config, paths = parse_keys(ReportConfig, argv, "finetune report")
    if len(paths) > 1:
        raise UserError(f"python -m finetune report takes one folder, not {' and '.join(paths)}")
    text = render_page(read_folder(paths[0]), config.rows, config.seed)
    out = config.out or str(RunFolder(paths[0]).report)
    render.write(out, text)
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


def render_page(folder: Folder, rows: int, seed: int) -> str:
    """The whole page as text.

    Args:
        folder: finetune.page.folder.Folder.  rows, seed: how many clips a contact sheet shows, and
            which.
    Raises:
        UserError: a shard, an image or a file of an evaluation is broken.
    """
    evaluations = _evaluations(folder)
    values = {
        "name": os.path.basename(os.path.abspath(folder.path)),
        "made": date.today().isoformat(),
        "machines": sorted({evaluation.content["machine"] for evaluation in evaluations}),
        "headlines": [
            numbers.make_headline(evaluation)
            for evaluation in evaluations
            if not _scratch(evaluation)
        ],
        "sheets": _sheets(folder, rows, seed),
        "completions": _completions(folder),
        "charts": _charts(folder),
        "evaluations": [_shown_evaluation(evaluation) for evaluation in evaluations],
        "times": numbers.make_times_table(folder.times),
        "hints": _hints(folder),
    }
    return render.page("template.html", values, [LOOKS], [LOOKS / "page.js", LOOKS / "viewer.js"])


def _evaluations(folder):
    """Bodies before hands, a run before the one without pre-training."""
    found = [run.evaluation for run in folder.of("finetune train") if run.evaluation]
    return sorted(
        found,
        key=lambda evaluation: (evaluation.kind, _scratch(evaluation), evaluation.path.parent.name),
    )


def _scratch(evaluation):
    return evaluation.path.parent.name.endswith("_scratch")


def _sheets(folder, rows, seed):
    """A contact sheet a folder of shards.

    Those that `data make` wrote say so by their made.yaml.
    """
    out = []
    for name, paths in folder.shards.items():
        made = os.path.exists(os.path.join(os.path.dirname(paths[0]), "made.yaml"))
        sheet = {"name": name, "made": made, **images.draw_sheet(paths, rows, seed)}
        out.append(((not made, kind_of(name)), sheet))
    out.sort(key=lambda entry: entry[0])
    return [sheet for _, sheet in out]


def _completions(folder):
    return [
        {
            "name": run.name,
            "total": len(run.images),
            "steps": images.choose_steps(run.images),
        }
        for run in folder.of("pretrain train")
        if run.images
    ]


def _charts(folder):
    """Return the charts of pre-training and of fine-tuning.

    {"pretraining": [...], "finetuning": [[losses, MPJPE, PA-MPJPE] of a run and of the one without
    pre-training]}.
    """
    groups = {}
    for run in folder.of("finetune train"):
        groups.setdefault(run.name.removesuffix("_scratch"), []).append(run)
    finetuning = [
        [
            curves.draw_losses(runs[0]),
            curves.draw_validation(runs, "val/mpjpe", "MPJPE"),
            curves.draw_validation(runs, "val/pa_mpjpe", "PA-MPJPE"),
        ]
        for runs in groups.values()
    ]
    pretraining = [curves.draw_pretraining(run) for run in folder.of("pretrain train")]
    return {
        "pretraining": [chart for chart in pretraining if chart],
        "finetuning": [
            charts for group in finetuning if (charts := [chart for chart in group if chart])
        ],
    }


def _shown_evaluation(evaluation):
    """Return what the template shows of an evaluation.

    Its content, tables, the examples with their sheets, the viewer's meshes.
    """
    examples = []
    for example in evaluation.content["examples"]:
        path = evaluation.path / example["sheet"]
        facts = {
            "pa": f"{numbers.format_number(example['pa_mpjpe'], 'mm')} mm",
            "error": f"{numbers.format_number(example['mpjpe'], 'mm')} mm",
            "overlap": numbers.format_number(example["iou"], "") if "iou" in example else "-",
        }
        examples.append(
            {**example, "facts": facts, "image": inline_file(path) if path.exists() else None}
        )
    ranks = [
        {"name": rank, "examples": [(i, e) for i, e in enumerate(examples) if e["rank"] == rank]}
        for rank in dict.fromkeys(e["rank"] for e in examples)
    ]
    return {
        "content": evaluation.content,
        "name": evaluation.path.parent.name,
        "warnings": evaluation.content.get("warnings", []),
        "table": numbers.make_table(evaluation),
        "differences": numbers.list_differences(evaluation),
        "examples": examples,
        "ranks": ranks,
        "missing": [e["sheet"] for e in examples if e["image"] is None],
        "meshes": read_meshes(evaluation),
    }


def _hints(folder):
    """Return {section: [(sentence, command or None), ...]} of what is not there.

    The command would make it.
    """
    out: dict[str, list[tuple[str, str | None]]] = {
        section: [] for section in ("pairs", "completions", "curves", "tables", "times")
    }
    for kind, plural in KINDS.items():
        shards, before, after = (
            os.path.join(folder.path, f"{name}_{kind}")
            for name in ("people", "pretrain", "finetune")
        )
        pretrained, tuned = (
            [run for run in folder.of(command) if run.kind == kind] for command in COMMANDS
        )
        if not any(kind_of(name) == kind for name in folder.shards):
            command = _command(f"data make people_{kind}_easy", {"out": shards})
            out["pairs"].append((f"No clips of {plural}.", command))
        if not pretrained:
            command = _command(
                f"pretrain train demo_{kind}",
                {"run": before, "data.shards": shards},
            )
            out["completions"].append((f"No pre-training on {plural}.", command))
        for run in pretrained:
            if not run.images:
                out["completions"].append(
                    (f"{run.name} has drawn no images yet (log.images_every).", None)
                )
        words = f"finetune train demo_{kind}"
        if not tuned:
            command = _command(words, {"run": after, "init": before, "data.shards": shards})
            out["curves"].append((f"No fine-tuning on {plural}.", command))
        elif not any(run.scratch for run in tuned):
            command = _command(
                words, {"run": after + "_scratch", "init": "", "data.shards": shards}
            )
            out["curves"].append(
                (f"No fine-tuning on {plural} without pre-training to compare with.", command)
            )
        if not any(run.evaluation for run in tuned):
            path = next((str(run.path) for run in tuned if not run.scratch), after)
            out["tables"].append(
                (
                    f"No evaluation on {plural}.",
                    _command(f"finetune evaluate {shlex.quote(path)}", {}),
                )
            )
    if not folder.times:
        out["times"].append(("The folder has no times.jsonl; the demo writes it.", "make demo"))
    return out


def _command(words, keys):
    return " ".join(
        [f"python -m {words}", *(shlex.quote(f"{name}={value}") for name, value in keys.items())]
    )
