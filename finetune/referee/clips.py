"""The frames of a clip that are judged, and who was found in them, now or by an earlier run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.find.finder import open_finder
from data.sources.frames import Frames, Unreadable, open_video
from engine.errors import UserError
from engine.logging.console import get_logger
from finetune.inference.images import read_image
from finetune.referee.config import RefereeConfig
from finetune.referee.kinds import Kind
from finetune.referee.takes import SampleClip, fit_camera
from finetune.referee.truth import (
    Seen,
    find_hands_of,
    find_people_of,
    keep_hands,
    load_truth,
    save_truth,
    truth_name,
)

log = get_logger(__name__)


@dataclass
class ClipFrames:
    """A video or an image as numbered frames.

    Attributes:
        path, width, height: of it, in pixels.
        frames: numbers of those that are judged.
        video: None of an image.
    """

    path: str
    width: int
    height: int
    frames: list[int]
    video: Frames | None = None

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8)."""
        if self.video is not None:
            yield from self.video.get(frames)
        elif frames:
            yield 0, read_image(self.path)


def open_clip(clip: SampleClip, every: int) -> ClipFrames:
    """The frames of a clip, every so many-th of a video's; Unreadable where it is none."""
    if clip.is_image:
        try:
            height, width = read_image(clip.path).shape[:2]
        except UserError as error:
            raise Unreadable(str(error)) from None
        return ClipFrames(clip.path, width, height, [0])
    video = open_video(clip.path)
    frames = list(range(0, video.count, every))
    return ClipFrames(clip.path, video.width, video.height, frames, video)


def fit_cameras(clips: Sequence[SampleClip]) -> None:
    """Make each camera that of its video, before the first clip is judged.

    Raises:
        UserError: a calibration is of another image size; see ``fit_camera``.
    """
    for clip in clips:
        if clip.camera is None:
            continue
        try:
            video = open_video(clip.path)
        except Unreadable:
            continue  # told where its turn comes
        fit_camera(clip, video.width, video.height)


def find_in_clip(
    config: RefereeConfig, kind: Kind, source: ClipFrames, truth_folder: str
) -> list[Seen]:
    """The people or hands of a clip, from the folder where they were found before."""
    is_hand = kind.name == "hand"
    salt: dict[str, object] = {"score": config.least_score, "side": config.least_side_px}
    if is_hand:
        salt = {"kind": "hand"}
    path = os.path.join(truth_folder, truth_name(source.path, source.frames, salt))
    people = _load(path)
    if people is None:
        finder = open_finder(masks=not is_hand, hands=is_hand)
        frames = source.read(source.frames)
        if is_hand:
            people = find_hands_of(frames, finder)
        else:
            people = find_people_of(frames, finder, config.least_score, config.least_side_px)
        save_truth(path, people)
    if is_hand:
        return keep_hands(people, config.least_hand_score, config.least_hand_px)
    return people


def _load(path: str) -> list[Seen] | None:
    """What was found before, None where nothing was or the file is broken."""
    if not os.path.exists(path):
        return None
    try:
        return load_truth(path)
    except (OSError, ValueError, KeyError) as error:
        log.warning(f"{path} cannot be read ({error}): its people are found again")
        return None
