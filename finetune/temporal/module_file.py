"""A motion module out of a run's checkpoint, or out of one file: its header says how to build it.

The header has "motion", a JSON object: format, body (name, digest of its joints), model (the keys
of ``model.``), trained (those of ``data.`` and ``spoil.`` and of the steps, for a card).
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.bodies.base import BodyModel
from data.bodies.models import open_model
from engine.errors import UserError
from engine.run.run_folder import find_weights_file
from finetune.inference.predictor import find_checkpoint
from finetune.released.locate import locate_network
from finetune.temporal.keys import MOTION_BODIES, MotionConfig, MotionNetworkConfig
from finetune.temporal.limbs import Limbs, find_limbs
from finetune.temporal.network import MotionNetwork
from pretrain.files import check_finite, parse_object, read_content
from pretrain.header import read_config

FORMAT = 1
KEY = "motion"


@dataclass(eq=False)
class MotionModule:
    """A trained module.

    Attributes:
        network: in evaluation mode, on the CPU.  limbs: which joints it moves.
        name: words on where it comes from, which files of animation record.
    """

    network: MotionNetwork
    limbs: Limbs
    name: str


def describe_module(config: MotionConfig, body: BodyModel) -> dict[str, Any]:
    """Return the "motion" of a header."""
    return {
        "format": FORMAT,
        "body": {"name": body.name, "digest": _digest(body)},
        "model": dataclasses.asdict(config.model),
        "steps": config.steps,
        "batch": config.batch,
        "init": Path(config.init).name,
    }


def _digest(body: BodyModel) -> str:
    words = [*body.joint_names, *map(str, body.parents)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def locate_module(spec: str, key: str) -> MotionModule:
    """Return the module that a text means, as ``finetune.released.locate`` tells of networks.

    Args:
        key: that gave the text, for messages.
    Raises:
        UserError: there is none, or it is no module; see ``open_module``.
    """
    return open_module(locate_network(spec, key), key)


def open_module(place: Path, key: str) -> MotionModule:
    """Build the module of a run, of a checkpoint or of a file.

    Args:
        place: where it is, as ``finetune.released.locate`` says.  key: that names it, for messages.
    Raises:
        UserError: it is none, damaged, of a newer version or of another body model.
    """
    file = place
    if not place.is_file():
        _, weights = find_checkpoint(place, key)
        file = find_weights_file(weights)
    content = read_content(file)
    if KEY not in content.metadata:
        raise UserError(
            f"{key}={place} is no motion module: finetune train motion_body trains one, and the "
            "header of its weights has 'motion'"
        )
    known = parse_object(content.metadata[KEY], file, KEY)
    if known.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {known.get('format')} of motion modules; this software reads "
            f"{FORMAT}"
        )
    body = _open_body(known, file)
    limbs = find_limbs(body)
    config = read_config(known["model"], file, MotionNetworkConfig)
    with torch.random.fork_rng(devices=[]):
        network = MotionNetwork(config, body, limbs)
    check_finite(content.tensors, file)
    _fill(network, content.tensors, file)
    return MotionModule(network.eval(), limbs, place.stem)


def begin_from(network: MotionNetwork, module: MotionModule, config: MotionConfig) -> None:
    """Fill a network with another module's weights, to go on with other motions.

    Raises:
        UserError: the two differ in what no motion changes: the body, or their sizes.
    """
    there, here = module.network, network
    sizes = [dataclasses.replace(one.config, frames=0) for one in (there, here)]
    if sizes[0] != sizes[1] or module.limbs.body != config.body:
        raise UserError(
            f"init={config.init} is a module of body={module.limbs.body} and {there.config}; this "
            f"run is of body={config.body} and {here.config}"
        )
    network.load_state_dict(there.state_dict())


def _open_body(known: dict[str, Any], file: Path) -> BodyModel:
    there = known.get("body")
    if not isinstance(there, dict) or there.get("name") not in MOTION_BODIES:
        raise UserError(f"{file}: its header names body={there}, not {' or '.join(MOTION_BODIES)}")
    body = open_model(there["name"]).coarse(64)
    if there.get("digest") != _digest(body):
        raise UserError(
            f"{file} was trained with joints {there.get('digest')} of {body.name}; here they are "
            f"{_digest(body)}"
        )
    return body


def _fill(network: MotionNetwork, tensors: dict[str, torch.Tensor], file: Path) -> None:
    state = network.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        have = tuple(state[name].shape) if name in state else "missing"
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if have != found:
            raise UserError(
                f"{file}: weight {name} is {found} there and {have} in the module that its header "
                "describes"
            )
    network.load_state_dict(tensors)
