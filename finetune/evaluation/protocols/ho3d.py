"""HO-3D, versions 2 and 3: FreiHAND's numbers, and joints after scale and shift alone."""

from data.format.joint_sets import find_joint_set
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    describe_points,
)
from finetune.evaluation.scoring.align import align_orthogonal, align_scale_shift
from finetune.evaluation.scoring.errors import distances
from finetune.evaluation.scoring.hand_errors import list_errors, list_mesh_errors
from finetune.evaluation.scoring.hand_files import read_submission, read_truth, write_submission
from finetune.verb_config import ScoreConfig

WRIST, MIDDLE = 0, 4  # of MANO's order; the bone between them sets the scale


@PROTOCOLS.register("ho3d")
class Ho3d(FrameProtocol):
    """HO-3D's evaluation set."""

    title = "HO-3D v2, v3"
    script = "shreyashampali/ho3d eval.py"
    joint_set = "mano21"
    root = "none: errors are absolute, or after the alignment"
    alignment = (
        "shift, scale, rotation or reflection; joints also by the wrist's place and the length of "
        "wrist to middle_1 alone"
    )
    unit = "cm"
    counted = "all of the evaluation set"
    averaging = "over all points of all frames"
    kind = "hand"
    submission = "pred.json: [N x 21 x 3, N x 778 x 3] metres, OpenGL's axes, MANO's order"
    truth = "folder with evaluation_xyz.json and evaluation_verts.json"
    run = RunJoints(find_joint_set("mano21").joints)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames."""
        return read_submission(config.predictions), read_truth(config.truth)

    def write(self, path: str, found: Frames) -> None:
        """Write the submission, whose y and z point up and towards the camera."""
        opengl = (1.0, -1.0, -1.0)
        meshes = None if found.vertices is None else found.vertices * opengl
        write_submission(path, Frames(found.joints * opengl, meshes, name=found.name))

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the numbers of scores.txt, in its order."""
        aligned = align_orthogonal(found.joints, true.joints)
        scaled = align_scale_shift(found.joints, true.joints, WRIST, MIDDLE)
        values = [
            *list_errors("xyz", "MPJPE", distances(found.joints, true.joints)),
            *list_errors("xyz_procrustes_al", "PA-MPJPE", distances(aligned, true.joints)),
            *list_errors("xyz_scale_trans_al", "ST-MPJPE", distances(scaled, true.joints)),
            *list_mesh_errors(found, true),
        ]
        notes = describe_points(found, "the alignment puts them at the mean of the truth")
        return Scores(len(true), values, notes)
