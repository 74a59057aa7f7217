"""``python -m finetune release RUN name=NAME``: a run as one small file, with its card."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.config.parser import parse_keys
from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file, write_file
from finetune.inference.predictor import Predictor
from finetune.released.card import CardFacts, name_card, write_card
from finetune.released.catalogue import (
    INDEX,
    SUFFIX,
    Released,
    check_name,
    hash_file,
    read_index,
    write_index,
)
from finetune.released.half import Agreement, check_agreement, measure_agreement, round_weights
from finetune.released.history import Stage, trace_history
from finetune.released.locate import locate_network
from finetune.released.module_release import (
    gather_facts,
    is_module,
    write_module,
    write_module_card,
)
from finetune.released.network_file import describe_body, save_network
from finetune.released.numbers import list_evaluations, read_results
from finetune.verb_config import ReleaseConfig
from pretrain import header


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune release``; returns the exit code."""
    config, _ = parse_keys(ReleaseConfig, argv, "finetune release")
    check_name(config.name)
    folder, name = Path(config.out), config.name
    notes = _read_notes(config.notes)
    known = read_index(folder)
    if name in known and not config.overwrite:
        raise UserError(f"{folder / known[name].file} is there already; overwrite=true replaces it")
    place = locate_network(config.run)
    if is_module(place):
        return _release_module(config, place, known, notes)
    predictor = Predictor(config.run, "cpu").require_mesh("release")
    if predictor.checkpoint.is_file():
        raise UserError(f"run={config.run} is a file of weights already; a run is released")
    referee = _read_referee(config, predictor)
    tensors, agreement = _round(predictor, config.dtype)
    stages = trace_history(predictor.folder, predictor.step)
    entry = _write_weights(config, predictor, tensors, stages)
    facts = _gather(config, predictor, entry, agreement, stages, referee, notes)
    _write_beside(folder, entry, write_card(facts))
    _write_index(folder, {**known, name: entry})
    print(
        f"wrote {folder / entry.file}, {entry.bytes / 1e6:.1f} MB, and its card {entry.card}, of "
        f"step {predictor.step}"
    )
    if agreement is not None:
        print(f"{config.dtype} against float32: {agreement}")
    if referee is None:
        print("note: there is no referee.json of this run: the card has no numbers of real images")
    return 0


def _release_module(
    config: ReleaseConfig, place: Path, known: Mapping[str, Released], notes: str
) -> int:
    folder = Path(config.out)
    entry, step = write_module(place, config.name, folder)
    facts = gather_facts(place, entry, step, folder, config.machine, notes)
    _write_beside(folder, entry, write_module_card(facts))
    _write_index(folder, {**known, config.name: entry})
    print(f"wrote {folder / entry.file}, a motion module of step {step}, and its card {entry.card}")
    return 0


def _read_notes(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        said = explain(error) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"notes={path} cannot be read: {said}") from None


def _round(predictor: Predictor, dtype: str) -> tuple[dict[str, torch.Tensor], Agreement | None]:
    """(weights as they are written, how far they are from the full ones)."""
    tensors = round_weights(predictor.model.state_dict(), dtype)
    if dtype == "float32":
        return tensors, None
    agreement = measure_agreement(predictor.model, tensors, predictor.body)
    check_agreement(agreement, dtype)
    return tensors, agreement


def _write_weights(
    config: ReleaseConfig,
    predictor: Predictor,
    tensors: Mapping[str, torch.Tensor],
    stages: Sequence[Stage],
) -> Released:
    """Write the file beside its place, and put it there if it is small enough."""
    folder, file = Path(config.out), f"{config.name}{SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / file, durable=True) as beside:
            save_network(
                beside,
                tensors,
                predictor.config,
                predictor.model,
                predictor.body,
                header.read_seen(predictor.checkpoint),
                predictor.step,
                stages[0].commit if stages else _find_commit(),
            )
            size = beside.stat().st_size
            if size > config.most_mb * 1e6:
                raise UserError(
                    f"{file} would have {size / 1e6:.1f} MB, and most_mb={config.most_mb:g}: allow "
                    "more" + ("" if config.dtype == "float16" else ", or take dtype=float16")
                )
            digest = hash_file(beside)
    except OSError as error:
        raise failure_of(error, f"{folder / file} was not written: {explain(error)}") from None
    kind = predictor.body.kind
    return Released(config.name, file, digest, size, kind, name_card(file))


def _find_commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _read_referee(config: ReleaseConfig, predictor: Predictor) -> dict[str, Any] | None:
    """The referee's results; those of another step are refused, for they are of other weights."""
    path = Path(config.referee) if config.referee else predictor.folder / "referee"
    path = path / "referee.json" if path.is_dir() or not path.suffix else path
    found = read_results(path)
    if found is None and config.referee:
        raise UserError(f"referee={config.referee}: there is no {path}")
    if found is not None and found.get("step") != predictor.step:
        raise UserError(
            f"{path} is of step {found.get('step')}, the weights are of step {predictor.step}: run "
            f"python -m finetune referee again, or name the checkpoint of that step"
        )
    return found


def _gather(
    config: ReleaseConfig,
    predictor: Predictor,
    entry: Released,
    agreement: Agreement | None,
    stages: Sequence[Stage],
    referee: Mapping[str, Any] | None,
    notes: str,
) -> CardFacts:
    seen = header.read_seen(predictor.checkpoint)
    people = [f"not known: {words}" for words in seen.unknown]
    if seen.clips:
        kinds = " and ".join(sorted(seen.kinds)) or "whether synthetic or real is not recorded"
        count = sum(seen.clips.values())
        people.insert(
            0, f"seen in all: {count:,} clips in {len(seen.clips)} shards; {kinds} people"
        )
    evaluations = [
        one for one in list_evaluations(predictor.folder) if one.get("step") == predictor.step
    ]
    parts = {
        "encoder": sum(value.numel() for value in predictor.model.encoder.parameters()),
        "head": sum(value.numel() for value in predictor.model.head.parameters()),
    }
    return CardFacts(
        name=config.name,
        file=entry.file,
        sha256=entry.sha256,
        bytes=entry.bytes,
        kind=entry.kind,
        body=describe_body(predictor.body),
        model=predictor.config.model,
        parameters=parts,
        dtype=config.dtype,
        agreement=agreement,
        stages=stages,
        people=people,
        machine=config.machine,
        referee=referee,
        evaluations=evaluations,
        notes=notes,
    )


def _write_index(folder: Path, released: Mapping[str, Released]) -> None:
    try:
        write_index(folder, released)
    except OSError as error:
        raise failure_of(error, f"{folder / INDEX} was not written: {explain(error)}") from None


def _write_beside(folder: Path, entry: Released, card: str) -> None:
    try:
        write_file(folder / entry.card, card, durable=True)
    except OSError as error:
        raise failure_of(
            error, f"{folder / entry.card} was not written: {explain(error)}"
        ) from None
