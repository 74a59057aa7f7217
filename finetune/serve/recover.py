"""From a file that somebody dropped to one page that shows its people."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.find.finder import Finder
from data.format.images import BROKEN, explain_broken
from data.sources.frames import Unreadable, open_video
from engine.errors import UserError
from finetune.animation.formats.glb import write_glb
from finetune.animation.formats.html import LONGEST_PX, render_take
from finetune.animation.formats.npz import write_npz
from finetune.animation.track import Take, Track
from finetune.inference.fingers import join_hands
from finetune.inference.image_camera import CameraFinder
from finetune.inference.images import read_image
from finetune.inference.predictor import Predictor
from finetune.inference.search import WORDS, find_regions
from finetune.person import Person
from finetune.serve.config import ServeConfig
from finetune.verb_config import PredictFilesConfig
from finetune.video.command import is_video, predict_video
from finetune.video.film import join_film, shrink_frames, write_stretch

FORMATS = {"glb": write_glb, "npz": write_npz}  # offered beside the page
KINDS = {"glb": "model/gltf-binary", "npz": "application/octet-stream"}
MEGA = 1e6


@dataclass(frozen=True)
class Shown:
    """What is shown of a file.

    Attributes:
        page: HTML that needs no other file.
        downloads: (name, data URL) of each file that is offered beside it.
    """

    page: str
    downloads: list[tuple[str, str]]


class Recoverer:
    """Turns files into pages.

    Args:
        predictors: {"body", "hand": the network}, one of them or both, with meshes.
        finder: of people, and of hands where those are recovered.
    """

    def __init__(
        self, config: ServeConfig, predictors: Mapping[str, Predictor], finder: Finder
    ) -> None:
        self.config, self.predictors, self.finder = config, predictors, finder
        self.cameras = CameraFinder()

    def make_page(self, path: Path, folder: Path) -> Shown:
        """Return what is shown of a photograph or a clip.

        Args:
            folder: for what is written on the way; it is the caller's to remove.
        Raises:
            UserError: it is neither, too large or too long, or nobody is in it.
        """
        if not path.is_file():
            raise UserError(f"{path.name}: it is no longer there: drop it once more")
        if path.stat().st_size > self.config.upload_mb * MEGA:
            raise UserError(f"{path.name}: larger than the {self.config.upload_mb:g} MB allowed")
        if is_video(path.name):
            return self._show_clip(path, folder)
        take, film = self._recover_image(path, folder)
        stem = folder / path.stem
        files = [(write(take, stem)[0], name) for name, write in FORMATS.items()]
        return Shown(render_take(take, film), [_offer(*file) for file in files])

    def _show_clip(self, path: Path, folder: Path) -> Shown:
        self._check_clip(path)
        keys = PredictFilesConfig(out=str(folder), formats=["html", *FORMATS])
        keys.least_score, keys.device = self.config.least_score, self.config.device
        keys.video.overlay = False
        written = predict_video(str(path), keys, self.predictors, self.cameras)
        pages = {file.suffix.removeprefix("."): file for file in written}
        text = pages["html"].read_text(encoding="utf-8")
        return Shown(text, [_offer(pages[name], name) for name in FORMATS])

    def _check_clip(self, path: Path) -> None:
        try:
            frames = open_video(str(path))
        except Unreadable as error:
            raise UserError(f"{path.name}: {error}") from None
        self._check_pixels(path, frames.width, frames.height)
        if frames.times[-1] > self.config.seconds:
            raise UserError(
                f"{path.name}: {frames.times[-1]:.1f} s long, and {self.config.seconds:g} s are "
                "allowed (seconds=)"
            )

    def _check_pixels(self, path: Path, width: int, height: int) -> None:
        if width * height > self.config.megapixels * MEGA:
            raise UserError(
                f"{path.name}: {width} x {height} pixels, and {self.config.megapixels:g} "
                "megapixels are allowed (megapixels=)"
            )

    def _recover_image(self, path: Path, folder: Path) -> tuple[Take, bytes]:
        """A take of one frame, and its film."""
        try:
            with Image.open(path) as opened:
                self._check_pixels(path, *opened.size)
        except BROKEN as error:
            raise UserError(f"{path.name}: {explain_broken(error)}") from None
        image = read_image(path)
        height, width = image.shape[:2]
        camera = self.cameras.find_camera(str(path), width, height, photograph=True)
        people = self._find_people(image, camera.K)
        if not people:
            word = " or ".join(WORDS[kind] for kind in self.predictors)
            raise UserError(f"{path.name}: no {word} was found in it")
        tracks = [self._make_track(number, one) for number, one in enumerate(people)]
        take = Take(path.name, np.zeros(1), width, height, camera.K, tracks, camera.source)
        return take, _film_image(image, folder)

    def _find_people(self, image: np.ndarray, K: np.ndarray) -> list[Person]:
        kinds = list(self.predictors)
        regions = find_regions(self.finder, image, kinds, self.config.least_score)
        people: list[Person] = []
        wrists = []
        for kind, inside in regions.items():
            people += self.predictors[kind](
                image,
                [one.box for one in inside],
                K,
                [one.side for one in inside],
                [one.keypoints for one in inside],
            )
            wrists += [one.find_wrists(kind) for one in inside]
        if len(self.predictors) > 1:
            body, hand = (self.predictors[kind].body for kind in ("body", "hand"))
            people = join_hands(people, body, hand, None, wrists)
        return people

    def _make_track(self, number: int, person: Person) -> Track:
        body = self.predictors["body" if person.kind == "body" else "hand"].body
        if person.pose is None or person.shape is None:
            raise UserError(
                f"a network whose head answers without {body.name}'s parameters cannot be shown"
            )
        return Track(
            name=f"{person.kind}-{number + 1}",
            kind=person.kind,
            body=body,
            frames=np.zeros(1, np.int64),
            times=np.zeros(1),
            pose=person.pose[None],
            shape=person.shape,
            translation=person.translation[None],
            intrinsics=person.intrinsics,
            confidence=np.ones(1, np.float32),
            box=person.box[None],
        )


def _film_image(image: np.ndarray, folder: Path) -> bytes:
    """An image as a video of one frame, which the page plays."""
    silent, whole = folder / "silent.mp4", folder / "whole.mp4"
    times = np.zeros(1)
    write_stretch(silent, shrink_frames([(0, image)], 2 * LONGEST_PX), times, 25.0)
    join_film(whole, [(0, silent)], times, None)
    return whole.read_bytes()


def _offer(path: Path, kind: str) -> tuple[str, str]:
    data = base64.b64encode(path.read_bytes()).decode()
    return path.name, f"data:{KINDS[kind]};base64,{data}"
