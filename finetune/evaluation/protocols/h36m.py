"""Human3.6M, protocols 1 and 2, as SPIN's script evaluates them on its preprocessed files."""

from data.format.joint_sets import LSP14
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    describe_points,
)
from finetune.evaluation.scoring.body_errors import NAN_NOTE, joint_errors, list_means
from finetune.evaluation.scoring.spin_files import (
    REGRESSED,
    read_labelled,
    read_predictions,
    write_predictions,
)
from finetune.verb_config import ScoreConfig

JOINTS = 14
FRONTAL = "60457274"  # the camera of protocol 2


class Human36M(FrameProtocol):
    """What both protocols share."""

    script = "nkolot/SPIN eval.py, datasets/preprocess/h36m.py"
    joint_set = "lsp14, by h36m17's row of the regressor"
    root = "pelvis of h36m17 (row 0 of the regressor)"
    alignment = "shift, rotation and scale by the 14 joints"
    unit = "mm"
    averaging = "joints of a frame, then frames"
    kind = "body"
    submission = "npz: pred_joints N x 17 x 3 metres, or vertices with regressor="
    truth = "npz of SPIN's preprocessing (S, imgname)"
    run = RunJoints(LSP14, "pelvis", REGRESSED[:JOINTS], may_lack=True)
    camera = ""

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames; predictions are of all rows, or of those that count."""
        found = read_predictions(config, JOINTS)
        true, rows = read_labelled(config.truth, JOINTS, self.camera)
        if len(found) > len(true) and len(found) > rows.max():
            pelvis = None if found.pelvis is None else found.pelvis[rows]
            found = Frames(found.joints[rows], None, pelvis, name=found.name)
        return found, true

    def write(self, path: str, found: Frames) -> None:
        """Write an npz of pred_joints."""
        write_predictions(path, found)

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return MPJPE and the reconstruction error."""
        plain, aligned = joint_errors(found, true)
        values = list_means(
            [
                ("MPJPE", "MPJPE", plain, "mm", 4),
                ("Reconstruction Error", "PA-MPJPE", aligned, "mm", 4),
            ]
        )
        return Scores(len(true), values, describe_points(found, NAN_NOTE))


@PROTOCOLS.register("h36m_p1")
class ProtocolOne(Human36M):
    """All cameras."""

    title = "Human3.6M, protocol 1"
    counted = "S9 and S11, all cameras, each fifth frame"


@PROTOCOLS.register("h36m_p2")
class ProtocolTwo(Human36M):
    """The frontal camera alone."""

    title = "Human3.6M, protocol 2"
    counted = "S9 and S11, camera 60457274, each fifth frame"
    camera = FRONTAL
