"""One file that is a network for meshes: safetensors, whose header says how to build it.

Beside what every file of weights says of itself (pretrain/header.py) the header has "recovery",
a JSON object:

format    of this object
step      of the training
margin    side of a crop over the longer side of its box
head      the keys of ``head.``; of other tasks than the mesh others beside it
body      what the body model was: its package's version, and a digest of its joints and shapes
init      what the training began from, by its last name; "" for nothing
commit    of this software
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.bodies.base import BodyModel
from data.sampling.seen import Seen
from engine.errors import UserError
from finetune.config import BODY_MODELS, FinetuneConfig
from finetune.heads.keys import HeadConfig
from finetune.model import Recovery
from finetune.tasks import TASKS
from pretrain import header
from pretrain.files import check_finite, first_line, parse_object, read_content
from pretrain.weights import write_safetensors

FORMAT = 1
KEY = "recovery"
MARGINS = (1, 4)  # least and greatest, as the key margin= takes them
MOST_SEEN_BYTES = 1 << 20  # of the record of people; of a longer one shards alone are kept


@dataclass
class OpenedNetwork:
    """A network out of one file.

    Attributes:
        config: what the file says of it; every other key is at its default.
        body: the full body model.
        model: on the CPU, in evaluation mode.
        step: of the training.
    """

    config: FinetuneConfig
    body: BodyModel
    model: Recovery
    step: int


def describe_body(body: BodyModel) -> dict[str, str]:
    """Return which body model a network was trained with: the package's version and a digest."""
    words = [*body.joint_names, *map(str, body.parents), *body.shape_space.names]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    version = ""
    if body.name in BODY_MODELS.values():
        version = f"anny {importlib.metadata.version('anny')}"
    out = {"name": body.name, "version": version, "digest": digest}
    if body.variant:
        out |= {"variant": body.variant, "betas": str(len(body.shape_space.names))}
    return out


def save_network(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    config: FinetuneConfig,
    model: Recovery,
    body: BodyModel,
    seen: Seen,
    step: int,
    commit: str,
) -> None:
    """Write a network as one file, whole or not at all.

    Args:
        tensors: of the model's state, in whatever precision.
        config: of the run.
        commit: of this software; "" where nobody knows.
    Raises:
        Failure: it cannot be written.
    """
    if len(seen.pack()) > MOST_SEEN_BYTES:
        seen = Seen(seen.clips, kinds=seen.kinds, unknown=seen.unknown)
    recovery = {
        "format": FORMAT,
        "step": step,
        "margin": config.margin,
        **_describe_sections(config),
        "body": describe_body(body),
        "init": Path(config.init).name,
        "commit": commit,
    }
    metadata = header.make_header(config.model, seen, model.roles)
    write_safetensors(tensors, path, metadata | {KEY: json.dumps(recovery)})


def _describe_sections(config: FinetuneConfig) -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(getattr(config, name)) for name in config.network_sections}


def is_network_file(metadata: Mapping[str, str]) -> bool:
    """Return whether a header is of a file that ``open_network`` takes."""
    return KEY in metadata


def open_network(path: Path) -> OpenedNetwork:
    """Build the network of a file.

    Raises:
        UserError: it is cut off, of something else, of a newer version or of another body model.
    """
    content = read_content(path)
    if "motion" in content.metadata:
        raise UserError(
            f"{path} is a motion module, which takes no images: video.motion= names one"
        )
    if "scene" in content.metadata:
        raise UserError(
            f"{path} finds everybody in whole images without boxes: "
            "finetune.scene.predictor.ScenePredictor opens it"
        )
    if not is_network_file(content.metadata):
        raise UserError(
            f"{path} does not say how its network is built: it was not written by "
            f"python -m finetune release"
        )
    header.check_header(content.metadata, path)
    recovery = read_recovery(content.metadata, path)
    config = _read_config(content.metadata, recovery, path)
    body = _open_body(config, path)
    config.data.rules.crops = body.kind
    _check_body(recovery, body, path)
    model = _build(config, body, path)
    header.check_roles(content.metadata, model.roles, path)
    _fill(model, content.tensors, path)
    return OpenedNetwork(config, body, model.eval(), int(recovery["step"]))


def read_recovery(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the "recovery" of a header.

    Raises:
        UserError: a newer version wrote it, or something is missing in it.
    """
    recovery = parse_object(metadata[KEY], path, KEY)
    kinds = {"format": int, "step": int, "margin": (int, float), "head": dict, "body": dict}
    for name, kind in kinds.items():
        value = recovery.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{path}: its '{KEY}' has {name}={value!r}, which is of no use")
    low, high = MARGINS
    if not low <= recovery["margin"] <= high or recovery["step"] < 0:
        raise UserError(
            f"{path}: its '{KEY}' has margin={recovery['margin']} and step={recovery['step']}; "
            f"margin is {low} to {high}, step 0 or more"
        )
    if recovery["format"] > FORMAT:
        raise UserError(
            f"{path} has the format {recovery['format']} of networks; this software reads up to "
            f"{FORMAT}"
        )
    return recovery


def _read_config(
    metadata: Mapping[str, str], recovery: Mapping[str, Any], path: Path
) -> FinetuneConfig:
    for name in ("model", "task", "head", "body"):
        if name not in metadata:
            raise UserError(f"{path}: its header has no '{name}'")
    model = parse_object(metadata["model"], path, "model")
    try:
        schema = HeadConfig.choose(recovery["head"])
    except UserError as error:
        raise UserError(f"{path}: its header names {error}") from None
    task = _find_schema(metadata["task"], path)
    config = task(
        task=metadata["task"],
        model=header.read_config(model, path, typing.get_type_hints(task)["model"]),
        head=header.read_config(recovery["head"], path, schema),
        body=metadata["body"],
        body_variant=str(recovery["body"].get("variant", "")),
        body_betas=_read_count(recovery["body"].get("betas", "0"), path),
        margin=float(recovery["margin"]),
        # A name: what these weights began from was something.
        init=str(recovery.get("init") or path.name),
    )
    for name in task.network_sections:
        if name == "head":
            continue
        if not isinstance(recovery.get(name), dict):
            raise UserError(f"{path}: its '{KEY}' has no '{name}'")
        kind = typing.get_type_hints(task)[name]
        setattr(config, name, header.read_config(recovery[name], path, kind))
    return config


def _read_count(text: object, path: Path) -> int:
    if not isinstance(text, str) or not text.isdecimal():
        raise UserError(f"{path}: its '{KEY}' has betas={text!r}, which is no number")
    return int(text)


def _find_schema(task: str, path: Path) -> type[FinetuneConfig]:
    try:
        return FinetuneConfig.choose({"task": task})
    except UserError as error:
        raise UserError(f"{path}: its header names {error}") from None


def _open_body(config: FinetuneConfig, path: Path) -> BodyModel:
    try:
        TASKS.find(config.task)
        return config.open_body()
    except UserError as error:
        raise UserError(f"{path}: its header names {error}") from None


def _build(config: FinetuneConfig, body: BodyModel, path: Path) -> Recovery:
    """The network with weights of no meaning; UserError for sizes that no memory holds."""
    try:
        with torch.random.fork_rng(devices=[]):
            return config.make_network(body)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"{path}: the network that its header describes cannot be built: {first_line(error)}"
        ) from None


def _check_body(recovery: Mapping[str, Any], body: BodyModel, path: Path) -> None:
    here, there = describe_body(body), recovery["body"]
    if there.get("digest") != here["digest"]:
        raise UserError(
            f"{path} was trained with the body model {there.get('name')} ({there.get('version')}, "
            f"joints {there.get('digest')}); here it is {here['name']} ({here['version']}, joints "
            f"{here['digest']})"
        )


def _fill(model: Recovery, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    check_finite(tensors, path)
    state = model.state_dict()
    have = {name: tuple(value.shape) for name, value in state.items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(have.keys() | found.keys()):
        if have.get(name) != found.get(name):
            raise UserError(
                f"{path}: weight {name} is {found.get(name, 'missing')} there and "
                f"{have.get(name, 'missing')} in the network that its header describes"
            )
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
