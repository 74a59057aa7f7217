"""3DPW as papers report it: 14 joints of a regressor on gendered meshes, as SPIN's script."""

from data.format.joint_sets import LSP14
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    describe_points,
)
from finetune.evaluation.scoring.body_errors import (
    NAN_NOTE,
    acceleration,
    joint_errors,
    list_means,
    vertex_errors,
)
from finetune.evaluation.scoring.spin_files import (
    REGRESSED,
    read_posed,
    read_predictions,
    write_predictions,
)
from finetune.verb_config import ScoreConfig

JOINTS = 14


@PROTOCOLS.register("3dpw")
class ThreeDPW(FrameProtocol):
    """3DPW's test set; not the challenge's numbers, which are those of 24 SMPL joints."""

    title = "3DPW"
    script = "nkolot/SPIN eval.py"
    joint_set = "lsp14, by h36m17's row of the regressor"
    root = "row 0 of the regressor"
    alignment = "shift, rotation and scale by the 14 joints"
    unit = "mm"
    counted = "those of the npz: a valid camera and some 2D joint"
    averaging = "joints of a frame, then frames of all sequences"
    kind = "body"
    submission = "npz: pred_joints N x 17 x 3 metres, or vertices with regressor="
    truth = "npz: pose, shape and gender (SPIN's 3dpw_test.npz), or pred_joints, or vertices"
    run = RunJoints(LSP14, "pelvis", REGRESSED[:JOINTS], may_lack=True)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames."""
        found = read_predictions(config, JOINTS)
        return found, read_posed(config, found.vertices is not None)

    def write(self, path: str, found: Frames) -> None:
        """Write an npz of pred_joints."""
        write_predictions(path, found)

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return MPJPE, the reconstruction error, and what is usual beside them."""
        plain, aligned = joint_errors(found, true)
        values = list_means(
            [
                ("MPJPE", "MPJPE", plain, "mm", 4),
                ("Reconstruction Error", "PA-MPJPE", aligned, "mm", 4),
            ]
        )
        values += [*vertex_errors(found, true), *acceleration(found, true)]
        return Scores(len(true), values, describe_points(found, NAN_NOTE))
