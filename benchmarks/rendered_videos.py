"""Synthetic humans as videos of one camera that stands still, and what is true of them.

    python benchmarks/rendered_videos.py out=DIR [clips=8] [seed=0] [seconds=2.5] [fps=25]
        [size=384] [occluded=1] [acted=0.7]

Writes NAME.mp4 and NAME.truth.npz (rotations as the body model anny takes them, in the camera's
frame, joints in metres) for each clip. The camera sees the person's whole way; with ``occluded`` a
post, a panel or a low thing stands between the two. Files that are there are not made again, so
that a stopped command goes on.
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import av
import numpy as np
import torch

from benchmarks.options import read_options
from data.bodies.models import LAYOUTS
from data.people import shots
from data.people.config import PeopleConfig
from data.people.maker import ClipMaker, Person
from engine.cli import run
from engine.geometry import axis_angle_to_matrix

OPTIONS = {
    "out": "",
    "clips": "8",
    "seed": "0",
    "seconds": "2.5",
    "fps": "25",
    "size": "384",
    "occluded": "1",
    "acted": "0.7",
}
MARGIN = 1.3  # side of the image over that of the square around all that the person does


class StillCamera(ClipMaker):
    """Makes clips whose camera neither moves nor turns, so that they are a video."""

    def _aim_body(self, rng, person, scene, boxes, centre, ways, photography):
        domain, size = self.config.domain, self.config.size
        options, penalty = shots.sample_eyes(rng, scene, boxes, centre, ways[0], domain, False, 0.5)
        eye = options[(-penalty).argmax()]
        points = person.points.reshape(-1, 3)
        taken = []
        for instant in range(len(person.points)):
            same = copy.deepcopy(rng)
            taken.append(
                shots.make_shot(same, instant, eye, points, size, MARGIN, photography, domain)
            )
        return taken, ["body"] * len(taken), np.tile(centre, (len(taken), 1))

    def film(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """((T, size, size, 3) uint8 images, what is true of them)."""
        rng = self.random(index)
        person = self.make_person(rng, index)
        world = self._world(rng, person)[0]
        images = self.renderer.draw(world).rgb
        K, Rt = shots.read_calibration(world.shots[0])
        return images, self._tell(person, K, Rt)

    def _tell(self, person: Person, K: np.ndarray, Rt: np.ndarray) -> dict[str, np.ndarray]:
        names = self.body.joint_names
        chosen = [names.index(name) for name in LAYOUTS.find("anny").joint_names]
        pose = axis_angle_to_matrix(torch.from_numpy(person.pose).double()).numpy()[:, chosen]
        pose[:, 0] = Rt[:, :3] @ pose[:, 0]
        joints = person.joints[:, chosen].astype(np.float64) @ Rt[:, :3].T + Rt[:, 3]
        return {"pose": pose, "joints": joints, "times": person.times_s, "intrinsics": K, "Rt": Rt}


def make_config(options: dict[str, str]) -> PeopleConfig:
    """The generator's keys."""
    fps = float(options["fps"])
    config = PeopleConfig(
        out="-",
        seed=int(options["seed"]),
        size=int(options["size"]),
        instants=round(float(options["seconds"]) * fps),
        cameras=1,
        gap_s=1 / fps,
        antialias=1,
    )
    domain = config.domain
    domain.occluded_share = float(options["occluded"])
    domain.planted, domain.seats, domain.child_share = True, True, 0.0
    domain.any_side_share = 0.6
    domain.actions_share = float(options["acted"])
    return config


def main(argv: list[str]) -> None:
    """Make the videos; returns nothing."""
    options: dict[str, Any] = read_options(argv, OPTIONS)
    out, fps = Path(options["out"]), float(options["fps"])
    out.mkdir(parents=True, exist_ok=True)
    maker = StillCamera(make_config(options))
    for index in range(int(options["clips"])):
        path = out / f"made{options['seed']}_{index:02d}.mp4"
        if path.exists():
            continue
        images, truth = maker.film(index)
        np.savez_compressed(path.with_suffix(".truth.npz"), allow_pickle=False, **truth)
        write_video(path, images, fps)
        print(path, len(images), flush=True)


def write_video(path: Path, images: np.ndarray, fps: float) -> None:
    """Write frames (T, H, W, 3) uint8, whole or not at all."""
    beside = path.with_name(f"{path.stem}.part.mp4")
    with av.open(str(beside), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    beside.replace(path)


if __name__ == "__main__":
    run(main)
