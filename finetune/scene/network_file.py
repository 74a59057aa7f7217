"""What the header of a scene network's weights says of it, and how it is built from that alone.

Beside what every file of weights says (pretrain/header.py) it has "scene", a JSON object:

format    of this object
side      scene.side of the images that it is asked about
scene     the keys of ``scene.``
body      its body model (finetune/released/network_file.py)

So a run, one of its checkpoints and a copy of its model.safetensors are opened alike.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.bodies.base import BodyModel
from data.sampling.seen import Seen
from engine.errors import UserError
from engine.run.run_folder import find_weights_file
from finetune.inference.predictor import find_checkpoint
from finetune.released.locate import locate_network
from finetune.released.network_file import describe_body
from finetune.scene.config import SceneConfig, SceneKeys
from finetune.scene.network import SceneNetwork
from pretrain import header
from pretrain.config import VisionConfig
from pretrain.files import check_finite, parse_object, read_content, read_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
KEY = "scene"


@dataclass(eq=False)
class OpenedScene:
    """A scene network out of a file.

    Attributes:
        config: what the file says of it; every other key is at its default.
        body: the full body model.  model: on the CPU, in evaluation mode.
        file: of the weights.
    """

    config: SceneConfig
    body: BodyModel
    model: SceneNetwork
    file: Path


def describe_scene(config: SceneConfig, body: BodyModel, seen: Seen) -> dict[str, str]:
    """Return the header of the weights of a run."""
    known = {
        "format": FORMAT,
        "side": config.last_side,
        "scene": dataclasses.asdict(config.scene),
        "body": describe_body(body),
    }
    roles = header.Roles("scene", "scene", body.name)
    return header.make_header(config.model, seen, roles) | {KEY: json.dumps(known)}


def is_scene(run: str | Path, name: str = "run") -> bool:
    """Whether a run, a checkpoint or a file is of a scene network.

    Raises:
        UserError: there is none.
    """
    return KEY in read_metadata(_find_file(run, name))


def open_scene(run: str | Path, name: str = "run") -> OpenedScene:
    """Return the scene network of a run, of one of its checkpoints or of a file.

    Args:
        run: as finetune.released.locate takes it.  name: of the key that names it, for messages.
    Raises:
        UserError: there is none, or it is another network, damaged or of a newer version.
    """
    file = _find_file(run, name)
    content = read_content(file)
    if KEY not in content.metadata:
        raise UserError(
            f"{name}={run} is no network for whole images: task=scene trains one "
            "(docs/scenes.md), and the header of its weights has 'scene'"
        )
    header.check_header(content.metadata, file)
    known = parse_object(content.metadata[KEY], file, KEY)
    if known.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {known.get('format')} of scene networks; this software reads "
            f"{FORMAT}"
        )
    config = _read_config(content.metadata, known, file)
    body = config.open_body()
    there, here = known.get("body", {}), describe_body(body)
    if there.get("digest") != here["digest"]:
        raise UserError(
            f"{file} was trained with joints and shapes {there.get('digest')} of "
            f"{there.get('name')}; here {body.name} has {here['digest']}"
        )
    with torch.random.fork_rng(devices=[]):
        model = SceneNetwork(config, body)
    check_finite(content.tensors, file)
    fill_network(model, content.tensors, file)
    return OpenedScene(config, body, model.eval(), file)


def _find_file(run: str | Path, name: str) -> Path:
    """The file of weights that a text means."""
    place = locate_network(run, name)
    if place.is_file():
        return place
    _, weights = find_checkpoint(place, name)
    return find_weights_file(weights)


def fill_network(model: SceneNetwork, tensors: "Mapping[str, torch.Tensor]", file: Path) -> None:
    """Take over a file's tensors.

    Raises:
        UserError: names the first that does not fit.
    """
    state = model.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        have = tuple(state[name].shape) if name in state else "missing"
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if have != found:
            raise UserError(
                f"{file}: weight {name} is {found} there and {have} in the network that is wanted"
            )
    model.load_state_dict(dict(tensors))


def _read_config(
    metadata: "Mapping[str, str]", known: "Mapping[str, object]", file: Path
) -> SceneConfig:
    scene, side = known.get("scene"), known.get("side")
    if "model" not in metadata or not isinstance(scene, dict) or not isinstance(side, int):
        raise UserError(f"{file}: its header does not say how its network is built")
    model = header.read_config(parse_object(metadata["model"], file, "model"), file, VisionConfig)
    keys = header.read_config(scene, file, SceneKeys)
    return SceneConfig(
        run="none",
        model=model,
        scene=dataclasses.replace(keys, side=side, late_side=0, late_steps=0),
    )
