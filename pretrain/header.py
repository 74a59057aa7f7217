"""What a weights file says of itself, in the metadata of its header, which no copy loses.

counterpose   the number of this format
software      name and version of what wrote it
model         the network's config: sizes, heads, positions, rotary base, patch, image size
input         how images were normalised, and what crops showed beyond their edges
seen          what training saw (data/sampling/seen.py), synthetic or real people among it
task, head, body   names of what a fine-tuning trained, see Roles; pre-training writes none
"""

import dataclasses
import json
import typing
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from data.cropping.border import BORDER, check_border
from data.loading.augment import MEAN, STD
from data.sampling.seen import Seen, seen_in_manifest, unpack
from engine.config.parser import check_values
from engine.errors import Failure, UserError, explain, failure_of
from engine.run.run_folder import RunFolder, find_run
from pretrain.config import ModelConfig, VisionConfig
from pretrain.files import find_weights, parse_object, read_metadata

FORMAT = 1
VERSION = "0.1.0"  # as in setup.py
INPUT = {"range": "RGB in [0, 1]", "mean": list(MEAN), "std": list(STD), "border": BORDER}


@dataclasses.dataclass(frozen=True)
class Roles:
    """What a fine-tuning trained, by name.

    Attributes:
        task: as in ``task=``.  head: as in ``head.name=``.
        body: as in ``body=``; "" where a file from before these names does not say it.
    """

    task: str
    head: str
    body: str


def make_header(
    config: VisionConfig, seen: Seen | None, roles: Roles | None = None
) -> dict[str, str]:
    """Returns {text: text} for the weights of a network.

    Args:
        seen: None where nobody knows.
        roles: of a fine-tuning.
    """
    out = {
        "format": "pt",
        "counterpose": str(FORMAT),
        "software": f"counterpose {VERSION}",
        "model": json.dumps(dataclasses.asdict(config)),
        "input": json.dumps(INPUT),
    }
    if roles is not None:
        out |= dataclasses.asdict(roles)
    return out | ({} if seen is None else {"seen": seen.pack()})


def read_roles(metadata: Mapping[str, str], names: Container[str]) -> Roles | None:
    """Returns the Roles of a fine-tuning's weights, or None of other weights.

    Files from before the roles were in the header are known by their tensors: there was one task
    and one head, whose queries no other network has. Their body model is the one that the config of
    their run names.

    Args:
        metadata: of the file's header.
        names: of its tensors.
    """
    if "task" in metadata:
        return Roles(metadata["task"], metadata.get("head", ""), metadata.get("body", ""))
    if "head.queries" in names:
        return Roles("mesh", "model_based", "")
    return None


def check_roles(metadata: Mapping[str, str], wanted: Roles, path: Path) -> None:
    """Raises UserError where a header names another task, head or body than the run's config."""
    for name, here in dataclasses.asdict(wanted).items():
        there = metadata.get(name, here)
        if there != here:
            raise UserError(f"{path} is of {name} '{there}', its run's config names '{here}'")


def check_header(metadata: dict[str, str], where: object) -> None:
    """Raise UserError where a newer version wrote it, or images were normalised otherwise."""
    if not metadata.get("counterpose", "1").isdecimal():
        raise UserError(f"{where}: its weights format '{metadata['counterpose']}' is not a number")
    if int(metadata.get("counterpose", "1")) > FORMAT:
        raise UserError(
            f"{where} has weights format {metadata['counterpose']}; this software reads up to "
            f"{FORMAT}"
        )
    if "input" in metadata:
        check_input(parse_object(metadata["input"], where, "input"), where)


def check_input(found: dict, where: object) -> None:
    """UserError where images were normalised, or crops were bordered, otherwise than here."""
    check_border(found.get("border", BORDER), where)
    for name in ("mean", "std"):
        if found.get(name, INPUT[name]) != INPUT[name]:
            raise UserError(
                f"{where}: its images were normalised by {name}={found[name]}, this software's "
                f"are by {name}={INPUT[name]}"
            )


def config_in(metadata: dict[str, str], where: object) -> ModelConfig | None:
    """Return the config that a header names, or None.

    Of an encoder alone, its decoder is the one that it was trained with.
    """
    if "model" not in metadata:
        return None
    return read_config(parse_object(metadata["model"], where, "model"), where)


def read_config(tree: Mapping[str, Any], where: object, schema: type = ModelConfig) -> Any:
    """Return a config of class ``schema`` from its asdict().

    Raises:
        UserError: an unknown key, a value of another type, or one that its key does not take.
    """
    hints = typing.get_type_hints(schema)
    unknown = sorted(tree.keys() - hints.keys())
    if unknown:
        raise UserError(
            f"{where}: its model config has the key '{unknown[0]}', which this software does not "
            f"know"
        )
    values = {}
    for name, value in tree.items():
        kind = typing.get_origin(hints[name]) or hints[name]
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            values[name] = read_config(value, where, kind)
        elif kind is Any or isinstance(value, kind) or (kind is float and isinstance(value, int)):
            values[name] = value  # Any is of sides, which check_values reads
        else:
            raise UserError(
                f"{where}: its model config has {name}={value!r}, which is no {kind.__name__}"
            )
    config = schema(**values)
    check_values(config, where)
    return config


def read_seen(source: str | Path) -> Seen:
    """Return what the weights at a path saw. What nobody knows is a sentence in its ``unknown``.

    Args:
        source: as init= takes it.
    Raises:
        UserError: there is nothing, or the record in it is damaged.
    """
    path = find_weights(Path(source))
    return seen_in(read_metadata(path), path)


def seen_in(metadata: dict[str, str], path: Path) -> Seen:
    """Return what weights saw that have this header at ``path``.

    Files of before the record was in them are known by the manifest of the run that they lie in.
    """
    if "seen" in metadata:
        return unpack(metadata["seen"], path)
    run = find_run(path)
    if run is None or not run.manifest.is_file():
        return Seen(unknown=(f"{path.name} does not say what it was trained on",))
    return _seen_by_old_run(run)


def read_manifest_of(run: str | Path) -> dict[str, Any]:
    """Return the "sources" of a run's manifest.json.

    Raises:
        UserError: it is not there or broken.
    """
    path = RunFolder(run).manifest
    try:
        return json.loads(path.read_text(encoding="utf-8"))["sources"]
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a run: {type(error).__name__} {error}") from None


def _seen_by_old_run(run: RunFolder) -> Seen:
    """What a run of before the record saw: its manifest, and what it began from if it is there."""
    name = run.path.name
    seen = seen_in_manifest(read_manifest_of(run.path))
    init = _init_of(run)
    if not init:
        return seen
    base = Path(init).name
    try:
        before = read_seen(init)
    except Failure:
        return seen.union(Seen(unknown=(f"init={base}, which {name} began from, is not found",)))
    if not Path(init).is_absolute():
        # Another folder may have this name from here.
        before = before.union(
            Seen(
                unknown=(
                    f"init={base}, which {name} began from, was found by a relative path alone",
                )
            )
        )
    return seen.union(before)


def _init_of(run: RunFolder) -> str:
    """What a run began from by its config.yaml, or "": text, whatever command it is of."""
    path = run.config
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        tree = yaml.load(text, Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return str(tree.get("init") or "") if isinstance(tree, dict) else ""
