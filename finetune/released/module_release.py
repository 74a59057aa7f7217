"""A motion module as one small file of weights with its card."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Failure, UserError, explain, failure_of
from engine.run.files import replace_file
from engine.run.run_folder import RunFolder, find_weights_file, step_of
from finetune.inference.predictor import find_checkpoint
from finetune.released.card import LICENCE, describe_stages, name_card
from finetune.released.catalogue import SUFFIX, Released, hash_file
from finetune.released.history import Stage, trace_history
from finetune.temporal.module_file import KEY, open_module
from pretrain.files import parse_object, read_content, read_metadata
from pretrain.weights import write_safetensors

KIND = "motion"


@dataclass(frozen=True)
class ModuleFacts:
    """What a card tells of a motion module.

    Attributes:
        entry: of the index.  known: the "motion" of its header.  parameters: how many numbers.
        stages: of its training, the last first.  measured: {name: number} of the last validation.
        machine, notes: see finetune.released.card.CardFacts.
    """

    entry: Released
    known: Mapping[str, Any]
    parameters: int
    stages: Sequence[Stage]
    measured: Mapping[str, float]
    machine: str
    notes: str


def is_module(place: Path) -> bool:
    """Return whether a run, a checkpoint or a file is a motion module."""
    try:
        file = place if place.is_file() else find_weights_file(find_checkpoint(place, "run")[1])
        return KEY in read_metadata(file)
    except Failure:
        return False


def write_module(place: Path, name: str, out: Path) -> tuple[Released, int]:
    """Write a run's module as one file; (its entry of the index, its step).

    Raises:
        UserError: ``place`` is no run with a complete checkpoint.
        Failure: the file cannot be written.
    """
    if place.is_file():
        raise UserError(f"run={place} is a file of weights already; a run is released")
    _, checkpoint = find_checkpoint(place, "run")
    open_module(checkpoint, "run")  # whole and finite
    content = read_content(find_weights_file(checkpoint))
    file = f"{name}{SUFFIX}"
    metadata = {key: content.metadata[key] for key in ("counterpose", KEY)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with replace_file(out / file, durable=True) as beside:
            write_safetensors(content.tensors, beside, metadata)
            size, digest = beside.stat().st_size, hash_file(beside)
    except OSError as error:
        raise failure_of(error, f"{out / file} was not written: {explain(error)}") from None
    entry = Released(name, file, digest, size, KIND, name_card(file))
    return entry, step_of(checkpoint.name) or 0


def gather_facts(
    place: Path, entry: Released, step: int, out: Path, machine: str, notes: str
) -> ModuleFacts:
    """Return what the card of a module that was written tells."""
    folder, _ = find_checkpoint(place, "run")
    content = read_content(out / entry.file)
    return ModuleFacts(
        entry,
        parse_object(content.metadata[KEY], out / entry.file, KEY),
        sum(value.numel() for value in content.tensors.values()),
        trace_history(folder, step),
        read_validation(RunFolder(folder).log, step),
        machine,
        notes,
    )


def read_validation(log: Path, step: int) -> dict[str, float]:
    """Return {"val/NAME": number} of a log's last validation up to a step."""
    found: dict[str, float] = {}
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("step", step + 1) <= step:
            found |= {key: value for key, value in entry.items() if key.startswith("val/")}
    return found


def write_module_card(facts: ModuleFacts) -> str:
    """Return the text of a module's card, in Markdown."""
    parts = [
        f"# {facts.entry.name}",
        "\n".join(_describe(facts)),
        "## How to use it",
        f"`counterpose predict clip.mp4 video.smooth=learned video.motion={facts.entry.name}`,\n"
        "where the weights ship; else name the file (docs/video.md).",
        "## Where it comes from",
        "\n".join(describe_stages(facts.stages, facts.machine)),
        "## Numbers",
        "\n".join(_describe_numbers(facts)),
        "## What it is bad at",
        facts.notes.strip() or "Nobody has said.",
        "## Licence",
        LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


def _describe(facts: ModuleFacts) -> Iterator[str]:
    model, body = facts.known["model"], facts.known["body"]
    yield "A motion module: it smooths tracks of people in videos, mends frames and fills short"
    yield "gaps, learnt by masked modelling on synthetic motion alone, without images; made with"
    yield "counterpose."
    yield ""
    yield (
        f"- width {model['width']}, depth {model['depth']}, heads {model['heads']}, "
        f"{model['frames']} frames at once, {facts.parameters / 1e6:.2f} M parameters"
    )
    yield f"- rotations of body={body['name']} (joints {body['digest']})"
    yield f"- file: `{facts.entry.file}`, {facts.entry.bytes / 1e6:.1f} MB, float32"
    yield f"- SHA-256: `{facts.entry.sha256}`"


def _describe_numbers(facts: ModuleFacts) -> Iterator[str]:
    if not facts.measured:
        yield "Its run's log holds no validation."
        return
    yield "Validation motions of the generator, spoilt as in training (mm, degrees, mm/frame²):"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in sorted(facts.measured.items()):
        yield f"| {name.removeprefix('val/')} | {value:.1f} |"
