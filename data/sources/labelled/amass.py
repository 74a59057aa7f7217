"""AMASS: motion capture as parameters of SMPL+H or SMPL-X, without images.

    motion = read_motion("ACCAD/Male2Walking_c3d/B10_poses.npz")
    motion.pose[0], motion.times[0]

There is nothing to cut, so ``data labels`` does not list it. Metres, z up; both releases are read:
``*_poses.npz`` of SMPL+H with ``mocap_framerate``, and ``*_stageii.npz`` of SMPL-X with
``mocap_frame_rate`` and ``surface_model_type``.
"""

from dataclasses import dataclass

import numpy as np

from data.sources.labelled.bodies import as_numbers, gender_name, reading, take_text
from data.sources.labelled.npz import read_npz

FIELDS = (
    "poses",
    "trans",
    "betas",
    "gender",
    "mocap_framerate",
    "mocap_frame_rate",
    "surface_model_type",
)
MODELS = {52: "smplh", 55: "smplx"}  # by the number of joints


@dataclass(frozen=True)
class Motion:
    """A person's motion of F frames.

    Attributes:
        model: "smplh" or "smplx".  variant: "male", "female", "neutral" or "".
        pose: (F, J, 3) rotation vectors relative to the parent.  transl: (F, 3) metres.
        betas: (B,).  rate_hz: frames a second.
    """

    model: str
    variant: str
    pose: np.ndarray
    transl: np.ndarray
    betas: np.ndarray
    rate_hz: float

    @property
    def times(self) -> np.ndarray:
        """(F,) seconds from the first frame."""
        return np.arange(len(self.pose)) / self.rate_hz


def read_motion(path: str) -> Motion:
    """The motion in a file of AMASS.

    Raises:
        UserError: it cannot be read, or is no such file; a shape alone (``shape.npz``) is none.
    """
    arrays = read_npz(path, FIELDS)
    with reading(path, "motion of AMASS"):
        pose = arrays["poses"]
        count, joints = len(pose), pose.shape[-1] // 3
        if joints not in MODELS:
            raise ValueError(f"poses have {joints} joints, none of {', '.join(map(str, MODELS))}")
        pose = as_numbers(pose, "poses", count, 3 * joints).reshape(count, joints, 3)
        model = MODELS[joints]
        stated = take_text(arrays.get("surface_model_type", np.array(model)))
        if stated != model:
            raise ValueError(f"{joints} joints, but surface_model_type is {stated}")
        rate = "mocap_framerate" if "mocap_framerate" in arrays else "mocap_frame_rate"
        rate_hz = float(arrays[rate])
        if not rate_hz > 0:
            raise ValueError(f"{rate} is {rate_hz:g}")
        return Motion(
            model,
            gender_name(arrays.get("gender", np.array(""))),
            pose,
            as_numbers(arrays["trans"], "trans", count, 3),
            as_numbers(arrays["betas"], "betas", -1),
            rate_hz,
        )
