"""A trained network that takes an image and gives the people in it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml

from data.bodies.base import BodyModel
from data.cropping.border import BORDER
from data.cropping.geometry import Size, Square, square_around
from data.format.clip import KINDS
from engine.checkpoint import checkpoints, restore
from engine.config.parser import parse
from engine.distributed import process_group
from engine.errors import UserError
from engine.logging.console import get_logger
from engine.run.run_folder import RunFolder, find_weights_file
from finetune.config import FinetuneConfig
from finetune.heads.base import Prediction
from finetune.inference.images import ImageLike, read_image
from finetune.inference.network import Network
from finetune.masks import FoundMask
from finetune.model import Recovery
from finetune.people import make_people
from finetune.person import Person
from finetune.released.locate import locate_network, results_home
from finetune.released.network_file import open_network
from pretrain import header
from pretrain.files import check_finite, read_metadata

BATCH = 32  # crops that go through the network at once
COMMAND = "finetune train"  # whose runs recover meshes
MOST_OUTSIDE = 10  # a box's side over the image's: more is a mistake
SIDES = ("left", "right")

log = get_logger(__name__)


class Predictor(Network):
    """A trained network with its body model.

        people = load_run(run)(image)

    Args:
        run: a run's folder or one of its checkpoints, the name of weights that ship, a file, a URL
            or a hub repository; see finetune.released.locate.
        device: "auto", "cpu" or "cuda".
        name: of the key that names the run, for messages.

    Attributes:
        folder: of the run; of a file a folder of its name, where results go by default.
        checkpoint: its folder, or the file.

    Raises:
        UserError: there is no such run, or it has no complete checkpoint.
    """

    def __init__(self, run: str | Path, device: str = "auto", name: str = "run") -> None:
        place = locate_network(run, name)
        if place.is_file():
            self.folder, self.checkpoint = results_home(run), place
            opened = open_network(place)
            self.step = opened.step
            config, model, body = opened.config, opened.model, opened.body
        else:
            config, model, body = self._open_run(place, name)
        on = process_group.device_of(device)
        super().__init__(config, model.eval().to(on), body.to(on), on)

    def require_mesh(self, command: str) -> "Predictor":
        """Return this Predictor.

        Args:
            command: that wants meshes, for the message.
        Raises:
            UserError: its head predicts none.
        """
        if not self.model.head.has_mesh:
            raise UserError(
                f"{self.checkpoint}: its head, {self.config.head.name}, predicts no mesh, and "
                f"{command} wants one; the run's log and its images show what it has learnt"
            )
        return self

    def _open_run(self, place: Path, name: str) -> tuple[FinetuneConfig, Recovery, BodyModel]:
        folder, weights = find_checkpoint(place, name)
        self.folder, self.checkpoint = folder, weights
        path = RunFolder(folder).config
        _refuse_other_runs(path, f"{name}={place}")
        config = parse(FinetuneConfig, [str(path)], COMMAND)
        if not isinstance(config, FinetuneConfig):
            raise UserError(
                f"{name}={place} is a run of task={config.task}, {tell_use(config.task)}"
            )
        _note_unknown_border(path)
        body = config.open_body()
        with torch.random.fork_rng(devices=[]):
            model = config.make_network(body)
        file = find_weights_file(weights)
        header.check_roles(read_metadata(file), model.roles, file)
        self.step = restore.load_model(weights, model)
        check_finite(model.state_dict(), file)
        return config, model, body

    def __call__(
        self,
        image: ImageLike,
        boxes: npt.ArrayLike | None = None,
        intrinsics: npt.ArrayLike | None = None,
        sides: Sequence[str] | None = None,
        keypoints: Sequence[np.ndarray | None] | None = None,
        masks: Sequence[FoundMask] | None = None,
    ) -> list[Person]:
        """Return the Person of each box, in the order of the boxes.

        Args:
            image: (H, W, 3) uint8 RGB, a PIL image or a path.
            boxes: (n, 4) x0, y0, x1, y1 in pixels around each person or hand; None: the whole
                image is one.
            intrinsics: (3, 3) of the image, first pixel's centre at (0.5, 0.5); None: the focal
                length is taken to be the image's diagonal (as CLIFF does, ECCV 2022), so depths
                are a guess.
            sides: n of "left" or "right", for runs on hands; None: right.
            keypoints: n of (K, 3) x, y in pixels and confidence, in the order of
                finetune.prompts.PROMPTED, for runs that take them (head.prompts); None: unknown.
            masks: n of a PersonMask or (H, W), not 0 where the person is, for runs that take
                outlines (head.prompt_mask); None: unknown.

        Raises:
            UserError: an image that cannot be read, a box that lies outside of it, intrinsics that
                are none; its head predicts no mesh.
        """
        self.require_mesh("predict")
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        K = check_intrinsics(intrinsics, width, height)
        size = self.config.model.size
        squares, checked = check_boxes(boxes, width, height, self.config.margin, size)
        sides = ["right"] * len(checked) if sides is None else list(sides)
        if len(sides) != len(checked) or set(sides) - set(SIDES):
            raise UserError(f"sides={sides} for {len(checked)} boxes: each is 'left' or 'right'")
        is_hand = self.body.kind == "hand"
        kinds = [f"{side}_hand" if is_hand else KINDS[0] for side in sides]
        mirrored = [is_hand and side == "left" for side in sides]
        flip = torch.tensor(mirrored, dtype=torch.bool, device=self.device)
        prompts = self.place_prompts(keypoints, squares, flip)
        outlines = self.place_masks(masks, squares, flip, (height, width))
        camera = torch.from_numpy(K).float().to(self.device)
        found = []
        for i in range(0, len(checked), BATCH):
            part = slice(i, i + BATCH)
            given = [None if values is None else values[part] for values in (prompts, outlines)]
            bodies = self._recover(pixels, K, squares[part], flip[part], *given)
            cameras = camera.expand(len(squares[part]), 3, 3)
            found += make_people(bodies, flip[part], self.body, cameras, checked[part], kinds[part])
        return found

    @torch.no_grad()
    def _recover(
        self,
        pixels: np.ndarray,
        K: np.ndarray,
        squares: list[Square],
        flip: torch.Tensor,
        prompts: torch.Tensor | None,
        masks: torch.Tensor | None,
    ) -> Prediction:
        images, cameras = self.cut_crops(pixels, K, squares, flip)
        return self.model(images, cameras, self.body, prompts, masks=masks)


def tell_use(task: str) -> str:
    """Return what networks of another task than recovery are for, to end a sentence with."""
    if task == "scene":
        return (
            "which finds everybody in whole images without boxes: "
            "finetune.scene.predictor.ScenePredictor opens it"
        )
    return "which takes no images"


def _refuse_other_runs(path: Path, named: str) -> None:
    """UserError where a config.yaml is that of a run of another kind, such as a pre-training."""
    try:
        tree = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return  # the parser says what is wrong with the file
    command = str(tree.get("command", COMMAND)) if isinstance(tree, dict) else COMMAND
    if command.split()[:1] != COMMAND.split()[:1]:
        raise UserError(
            f"{named} is a run of {command}, which recovers no meshes; a run of {COMMAND} is wanted"
        )


def load_run(run: str | Path, device: str = "auto") -> Predictor:
    """Return the Predictor of a run; see there."""
    return Predictor(run, device)


def find_checkpoint(path: Path, name: str) -> tuple[Path, Path]:
    """Return (run's folder, checkpoint's folder) of a run or one of its checkpoints.

    Args:
        name: of the key that gave the path, for messages.

    Raises:
        UserError: it is neither, or there is no complete checkpoint.
    """
    if not path.is_dir():
        raise UserError(f"{name}={path}: there is no such folder")
    if find_weights_file(path).is_file():
        fault = checkpoints.damage(path)
        if fault:
            raise UserError(f"{name}={path} is not a complete checkpoint: {fault}")
        return path.resolve().parents[1], path
    if not RunFolder(path).config.is_file():
        raise UserError(f"{name}={path} holds no config.yaml: it is not a run's folder")
    newest = checkpoints.newest(path)
    if newest is None:
        raise UserError(f"{name}={path} has no complete checkpoint yet")
    return path, newest


def _note_unknown_border(path: Path) -> None:
    """Say it where a run's config is older than the key that names its border rule."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "border" not in tree["data"]:
        log.info(
            "note: %s does not name data.border: the run is older than that key, and may have been "
            "trained on crops that repeat their images' border; here they are %s beyond it",
            path,
            BORDER,
        )


def check_boxes(
    boxes: npt.ArrayLike | None, width: int, height: int, margin: float, size: Size = 1
) -> tuple[list[Square], np.ndarray]:
    """Return (squares to cut, (n, 4) boxes) of boxes, or of the whole image where they are None.

    An empty list is nobody, as an empty array is.

    Args:
        width, height: of the image in pixels.
        margin: a square's side over the longer side of its box.
        size: of the network's images, whose shape the crops have.

    Raises:
        UserError: they are not boxes, or one of them does not lie in the image.
    """
    if boxes is None:
        whole = np.array([[0, 0, width, height]], np.float64)
        return [square_around(whole[0], 1.0, size)], whole
    try:
        checked = np.asarray(boxes, np.float64)
        if checked.shape == (0,):
            checked = checked.reshape(0, 4)
        if checked.ndim != 2 or checked.shape[1:] != (4,) or not np.isfinite(checked).all():
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f"boxes are (n, 4) finite numbers x0, y0, x1, y1, not {boxes}") from None
    for box in checked:
        _check_box(box, width, height)
    return [square_around(box, margin, size) for box in checked], checked


def _check_box(box: np.ndarray, width: int, height: int) -> None:
    x0, y0, x1, y1 = box.tolist()
    too_small = x1 - x0 < 1 or y1 - y0 < 1
    outside = x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0
    if too_small or outside:
        raise UserError(
            f"the box {box.round(1).tolist()} has no area in the image of {width} x {height}"
        )
    if max(x1 - x0, y1 - y0) > MOST_OUTSIDE * max(width, height):
        raise UserError(
            f"the box {box.round(1).tolist()} is over {MOST_OUTSIDE} times as large as the image "
            f"of {width} x {height}"
        )


def check_intrinsics(K: npt.ArrayLike | None, width: int, height: int) -> np.ndarray:
    """Return (3, 3) float64 intrinsics; where they are None, a guess from the image's size.

    Raises:
        UserError: the matrix is not that of a pinhole camera.
    """
    if K is None:
        focal = math.hypot(width, height)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    matrix = np.asarray(K, np.float64)
    is_pinhole = (
        matrix.shape == (3, 3)
        and np.isfinite(matrix).all()
        and min(matrix[0, 0], matrix[1, 1]) > 0
        and not matrix[1, 0]
        and matrix[2].tolist() == [0, 0, 1]
    )
    if not is_pinhole:
        raise UserError(
            f"intrinsics {matrix.tolist()} are not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with "
            f"fx and fy above 0"
        )
    return matrix
