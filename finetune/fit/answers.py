"""What a network says of the crops that show people, in the axes of the cameras' world."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch

from data.bodies.joint_maps import JointMap
from data.cropping.geometry import Square
from data.format.joint_sets import find_joint_set
from data.format.samples import read_samples
from engine.errors import UserError
from engine.logging import progress
from finetune.fit.observed import Place, Stretch, View
from finetune.heads.base import Prediction
from finetune.inference.network import Network
from finetune.prompts import PROMPTED

LEFT = "left_hand"
BATCH = 32  # crops that go through the network at once

ReadClips = Callable[[str, Collection[str]], Iterable[tuple[str, dict[str, bytes]]]]


@dataclass(eq=False)
class Answer:
    """A network's answer to one view, in the world's axes (a left hand's in a mirror).

    Attributes:
        points: (P, 3) of the view's joint set about joint 0, metres.
        keypoints: (K, 3) of the network's body about joint 0.
        pose: (J, 3, 3), or None from a head without parameters.
        shape: (S,), or None likewise.
        place: (3,) of joint 0 in the world, metres, for views with next to no keypoints; None:
            nobody says.
    """

    points: np.ndarray
    keypoints: np.ndarray
    pose: torch.Tensor | None
    shape: torch.Tensor | None
    place: np.ndarray | None = None


def read_whole(path: str, keys: Collection[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, members) of all clips of a shard, whichever are wanted."""
    return read_samples(path)


@torch.no_grad()
def ask_network(
    network: Network,
    stretches: Sequence[Stretch],
    read: ReadClips = read_whole,
    hidden: bool = False,
) -> dict[int, Answer]:
    """Return {id of a view: the network's Answer to it}.

    Args:
        read: yields (key, members) of at least the clips of a shard that have these keys.
        hidden: show no progress.
    Raises:
        UserError: an image cannot be decoded; the network is of another kind of body.
    """
    wanted: dict[str, dict[str, list[tuple[int, Stretch, View]]]] = {}
    for stretch in stretches:
        for view in stretch.views:
            path, key, number = view.places[0]
            wanted.setdefault(path, {}).setdefault(key, []).append((number, stretch, view))
    out: dict[int, Answer] = {}
    maps: dict[str, JointMap] = {}
    total = sum(len(stretch.views) for stretch in stretches)
    with progress.bar(total, "crop", description="asking the network", hidden=hidden) as bar:
        for path, keys in wanted.items():
            waiting: list[tuple[np.ndarray, Stretch, View]] = []
            for key, members in read(path, keys):
                for number, stretch, view in keys.get(key, ()):
                    pixels = _decode(members[f"{number:02d}.jpg"], (path, key, number))
                    waiting.append((pixels, stretch, view))
                while len(waiting) >= BATCH:
                    out |= _answer(network, waiting[:BATCH], maps)
                    del waiting[:BATCH]
                    bar.update(BATCH)
            out |= _answer(network, waiting, maps)
            bar.update(len(waiting))
    return out


def _decode(data: bytes, place: Place) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        path, key, number = place
        raise UserError(
            f"{path}:{key}: image {number:02d}.jpg cannot be decoded: {error}"
        ) from None


def _answer(
    network: Network,
    waiting: Sequence[tuple[np.ndarray, Stretch, View]],
    maps: dict[str, JointMap],
) -> dict[int, Answer]:
    if not waiting:
        return {}
    flip = torch.tensor([stretch.kind == LEFT for _, stretch, _ in waiting])
    flip = flip.to(network.device)
    images, cameras, squares, given = [], [], [], []
    for row, (pixels, stretch, view) in enumerate(waiting):
        side = pixels.shape[1]
        square = Square(side / 2, side / 2, side)
        one, camera = network.cut_crops(pixels, view.K, [square], flip[row : row + 1])
        images.append(one)
        cameras.append(camera)
        squares.append(square)
        given.append(order_points(stretch, view, network.body.kind))
    prompts = network.place_prompts(given, squares, flip)
    found = network.model(torch.cat(images), torch.cat(cameras), network.body, prompts)
    return _sort_answers(network, waiting, found, maps)


def order_points(stretch: Stretch, view: View, kind: str) -> np.ndarray | None:
    """(K, 3) pixels and confidence in PROMPTED's order; None where the set lacks some."""
    names = find_joint_set(stretch.joint_set).joints
    if any(name not in names for name in PROMPTED[kind]):
        return None
    rows = [names.index(name) for name in PROMPTED[kind]]
    return np.concatenate([view.points[rows], view.weights[rows, None]], 1)


def _sort_answers(
    network: Network,
    waiting: Sequence[tuple[np.ndarray, Stretch, View]],
    found: Prediction,
    maps: dict[str, JointMap],
) -> dict[int, Answer]:
    out = {}
    for row, (_, stretch, view) in enumerate(waiting):
        if stretch.joint_set not in maps:
            maps[stretch.joint_set] = JointMap(network.body, stretch.joint_set)
        one = slice(row, row + 1)
        points = maps[stretch.joint_set](found.vertices[one], found.joints[one])[0]
        Rt = mirror_camera(view)[1] if stretch.kind == LEFT else view.Rt
        turn = torch.from_numpy(Rt[:, :3].T.copy()).float()
        root = found.joints[row, :1]
        pose = shape = None
        if found.parameters is not None:
            pose = found.parameters.pose[row].cpu().clone()
            pose[0] = turn @ pose[0]
            shape = found.parameters.shape[row].cpu()
        out[id(view)] = Answer(
            ((points - root).cpu() @ turn.T).numpy(),
            ((found.keypoints[row] - root).cpu() @ turn.T).numpy(),
            pose,
            shape,
        )
    return out


def mirror_camera(view: View) -> tuple[np.ndarray, np.ndarray]:
    """(K, Rt) of a view's camera in a mirror that swaps x, of the world and of the camera.

    Its image is the view's mirrored about x = 0; the principal point's x changes its sign.
    """
    mirror = np.diag([-1.0, 1.0, 1.0])
    K = view.K.copy()
    K[0, 1:] *= -1
    Rt = mirror @ view.Rt @ np.diag([-1.0, 1.0, 1.0, 1.0])
    return K, Rt
