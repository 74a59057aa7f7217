"""MPI-INF-3DHP: 17 joints, errors as in SPIN's script, 3D PCK and the area under it."""

import numpy as np

from data.format.joint_sets import LSP14
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    Value,
    describe_points,
)
from finetune.evaluation.scoring.body_errors import NAN_NOTE, joint_errors, list_means, pck_below
from finetune.evaluation.scoring.errors import share_below
from finetune.evaluation.scoring.spin_files import (
    REGRESSED,
    read_labelled,
    read_predictions,
    write_predictions,
)
from finetune.verb_config import ScoreConfig

JOINTS = 17
NAMES = (*LSP14, "pelvis", "torso", "nose")
LIMIT_MM = 150.0
LIMITS_MM = np.linspace(0.0, 150.0, 31)  # of the area: their mean, no trapezoids


@PROTOCOLS.register("mpi_inf_3dhp")
class MpiInf3dhp(FrameProtocol):
    """MPI-INF-3DHP's test set."""

    title = "MPI-INF-3DHP"
    script = "nkolot/SPIN eval.py; PCK and AUC: open-mmlab/mmpose pose3d_eval.py"
    joint_set = "h36m17"
    root = "pelvis of h36m17 (row 0 of the regressor)"
    alignment = "shift, rotation and scale by the 17 joints"
    unit = "mm; PCK and AUC in %"
    counted = "valid frames of TS1 to TS6 whose joints all lie in the image"
    averaging = "joints of a frame, then frames; PCK over all joints of all frames"
    kind = "body"
    submission = "npz: pred_joints N x 17 x 3 metres, or vertices with regressor="
    truth = "npz of SPIN's preprocessing (S, imgname)"
    run = RunJoints(NAMES, "pelvis", REGRESSED, may_lack=True)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames."""
        return read_predictions(config, JOINTS), read_labelled(config.truth, JOINTS)[0]

    def write(self, path: str, found: Frames) -> None:
        """Write an npz of pred_joints."""
        write_predictions(path, found)

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return MPJPE, the reconstruction error, PCK below 150 mm and the area to 150 mm."""
        plain, aligned = joint_errors(found, true)
        area = float(share_below(plain, LIMITS_MM).mean()) * 100
        values = list_means(
            [
                ("MPJPE", "MPJPE", plain, "mm", 4),
                ("Reconstruction Error", "PA-MPJPE", aligned, "mm", 4),
            ]
        )
        values += [
            Value("3DPCK", "PCK below 150 mm", pck_below(plain, LIMIT_MM), "%", 4, "higher"),
            Value("3DAUC", "AUC, 0 to 150 mm", area, "%", 4, "higher"),
        ]
        return Scores(len(true), values, describe_points(found, NAN_NOTE))
