"""AMASS's npz files as tracks; only the body is taken, not the hands.

The zero pose of SMPL+H and SMPL-X is a T-pose with y up that faces +z. Their bones' lengths are
those of licensed files: here stand the directions and round lengths of a middle adult, which is all
that is needed to put rotations onto another body.
"""

import numpy as np
import torch

from data.people.recorded.track import Track, make_track
from data.sources.labelled.amass import read_motion
from data.sources.labelled.npz import read_npz
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix

# Of the 22 joints of the body, in the models' order.
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
OFFSETS = np.array(
    [
        [0, 0, 0],
        *([0.06, -0.09, -0.01], [-0.06, -0.09, -0.01], [0, 0.12, -0.03]),  # hips, spine1
        *([0.04, -0.38, -0.01], [-0.04, -0.38, -0.01], [0, 0.14, 0]),  # knees, spine2
        *([-0.01, -0.42, -0.04], [0.01, -0.42, -0.04], [0, 0.06, 0.02]),  # ankles, spine3
        *([0.04, -0.06, 0.12], [-0.04, -0.06, 0.12], [0, 0.21, -0.03]),  # feet, neck
        *([0.08, 0.11, -0.02], [-0.08, 0.11, -0.02], [0, 0.09, 0.05]),  # collars, head
        *([0.1, 0.04, -0.01], [-0.1, 0.04, -0.01]),  # shoulders
        *([0.26, -0.01, -0.02], [-0.26, -0.01, -0.02]),  # elbows
        *([0.25, 0, 0], [-0.25, 0, 0]),  # wrists
    ],
    np.float64,
)
ROLES = {
    **{"pelvis": 0, "chest": 9, "head": 15},
    **{"left_hip": 1, "right_hip": 2, "left_knee": 4, "right_knee": 5},
    **{"left_ankle": 7, "right_ankle": 8, "left_toes": 10, "right_toes": 11},
    **{"left_shoulder": 16, "right_shoulder": 17, "left_elbow": 18, "right_elbow": 19},
    **{"left_wrist": 20, "right_wrist": 21},
}


def is_motion(path: str) -> bool:
    """Whether an npz file holds a motion; AMASS's folders hold shapes too.

    Raises:
        UserError: it cannot be read.
    """
    return bool(read_npz(path, ["trans"]))


def read_amass(path: str) -> Track:
    """The Track in a file of AMASS.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    motion = read_motion(path)
    count = len(motion.pose)
    if count < 2:
        raise UserError(f"{path} has {count} frames; at least 2 are needed")
    pose = torch.from_numpy(np.ascontiguousarray(motion.pose[:, : len(PARENTS)], np.float64))
    local = axis_angle_to_matrix(pose).numpy()
    # The root's rotation takes the body's own y up to the world's z, so no other turn is needed.
    return make_track(ROLES, PARENTS, OFFSETS, local, motion.transl, np.eye(3), motion.rate_hz)
