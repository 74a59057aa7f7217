"""FreiHAND: right hands, joints and mesh, raw and after an alignment with scale."""

from data.format.joint_sets import find_joint_set
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    describe_points,
)
from finetune.evaluation.scoring.align import align_orthogonal
from finetune.evaluation.scoring.errors import distances
from finetune.evaluation.scoring.hand_errors import list_errors, list_mesh_errors
from finetune.evaluation.scoring.hand_files import read_submission, read_truth, write_submission
from finetune.verb_config import ScoreConfig


@PROTOCOLS.register("freihand")
class FreiHand(FrameProtocol):
    """FreiHAND's evaluation set."""

    title = "FreiHAND"
    script = "lmb-freiburg/freihand eval.py"
    joint_set = "hand21"
    root = "none: errors are absolute, or after the alignment"
    alignment = (
        "shift, scale, rotation or reflection; joints by the joints, mesh by its own vertices"
    )
    unit = "cm"
    counted = "all of the evaluation set"
    averaging = "over all points of all frames"
    kind = "hand"
    submission = "pred.json: [N x 21 x 3, N x 778 x 3] metres"
    truth = "folder with evaluation_xyz.json and evaluation_verts.json"
    run = RunJoints(find_joint_set("hand21").joints, may_lack=True)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames."""
        return read_submission(config.predictions), read_truth(config.truth)

    def write(self, path: str, found: Frames) -> None:
        """Write the submission."""
        write_submission(path, found)

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the numbers of scores.txt, in its order."""
        aligned = align_orthogonal(found.joints, true.joints)
        values = [
            *list_errors("xyz", "MPJPE", distances(found.joints, true.joints)),
            *list_errors("xyz_al", "PA-MPJPE", distances(aligned, true.joints)),
            *list_mesh_errors(found, true),
        ]
        notes = describe_points(found, "the alignment puts them at the mean of the truth")
        return Scores(len(true), values, notes)
