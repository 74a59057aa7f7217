"""The focal length of a video by the people in it, which is estimated once and kept."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from data.sources.frames import Frames
from data.sources.index_store import digest_video
from engine.errors import explain, failure_of
from engine.run.files import write_file
from finetune.inference.image_camera import ImageCamera
from finetune.inference.lens import CropTold, FocalEstimate, LensReader, combine_crops
from finetune.video.asked import BODY, Asked, Plan
from finetune.video.drawing import read_frames
from finetune.video.parts import digest_network, digest_words

FRAMES = 32  # that are read, spread evenly over those that show anybody


def estimate_video_camera(
    camera: ImageCamera, lens: LensReader, frames: Frames, folder: Path, plan: Plan
) -> ImageCamera:
    """Return the camera of a video of which nobody knows it, with what its people tell.

    One focal length for all frames: of a lens that zooms it is somewhere between. It is kept in the
    folder, so that a video that resumes has the same camera to the last digit.

    Args:
        camera: assumed.  folder: of what is done of the video.  plan: who is where.
    Raises:
        Failure: it cannot be written.
    """
    asked = choose_frames(plan)
    if not asked:
        return camera
    where = [
        (number, one.who, one.region.box.tolist(), _list_points(one))
        for number, mine in asked.items()
        for one in mine
    ]
    digest = digest_words(digest_video(frames.path), digest_network(lens.predictor), where)
    path = folder / "focal.json"
    estimate = _load(path, digest)
    if estimate is None:
        told: list[CropTold] = []
        for number, image in read_frames(frames, list(asked), camera.correct_image):
            people = {one.who.person: one.region for one in asked[number]}
            told += lens.read_crops(image, people)
        estimate = combine_crops(told, math.hypot(frames.width, frames.height))
        try:
            write_file(path, json.dumps({"digest": digest, **asdict(estimate)}))
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    if not estimate.people:
        return camera
    return camera.take_estimate(estimate, frames.width, frames.height)


def choose_frames(plan: Plan) -> dict[int, list[Asked]]:
    """Return {frame: the bodies in it} of FRAMES frames at most, spread evenly."""
    bodies = {
        number: [one for one in mine if one.who.part == BODY] for number, mine in plan.items()
    }
    shown = [number for number, mine in bodies.items() if mine]
    step = max(1, math.ceil(len(shown) / FRAMES))
    return {number: bodies[number] for number in shown[step // 2 :: step]}


def _list_points(one: Asked) -> list | None:
    points = one.region.keypoints
    return None if points is None else points.tolist()


def _load(path: Path, digest: str) -> FocalEstimate | None:
    """What was kept of the same video, people and network; None where nothing was."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("digest") != digest:
            return None
        return FocalEstimate(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
