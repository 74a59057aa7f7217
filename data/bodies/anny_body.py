"""The open body model anny, as a plain float32 function.

Anny (Apache-2.0, with CC0 data) comes as a Python package with its data inside. Its first
construction takes about a minute and over a gigabyte of intermediate files; here that is paid once,
by one process, and only the two small results are kept.

Frames: metres; z up; at rest the body stands in an A-pose and faces -y, with x to its own left. A
joint's rotation is relative to its parent, with axes that are those of the world at rest.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch

from data.bodies.warp_init import MEND, check_home, start_warp
from engine.errors import explain, failure_of
from engine.geometry import axis_angle_to_matrix
from engine.logging.console import get_logger
from engine.run.locks import lock_file
from engine.run.private import refuse_planted

if TYPE_CHECKING:
    from anny import Anny

log = get_logger(__name__)


class AnnyBody(torch.nn.Module):
    """Body parameters to vertices and joints, differentiable in all of them.

    Args:
        clothing: also return the base mesh's helper geometry (a body suit, a skirt, strands of
            hair), which moves with the body: V is then 19158 instead of 13718. The body's own are
            ``body_vertices`` of them, in the same order.

    Attributes:
        faces: (F, 3) int64 triangles of the body, indices into the V vertices.
        joint_names: names of the B joints.  parents: parent of each, -1 for the root (0).
        shape_names: the 6 shape parameters, each in [0, 1]; age 0 is a baby, 1/3 a child, 2/3 a
            young adult, 1 old.
        face_names: the 52 facial actions, each in [0, 1].
        body_vertices: (13718,) int64 indices of the body's own vertices among the V.

    Raises:
        UserError: the cache's folder cannot be written.
    """

    faces: torch.Tensor
    body_vertices: torch.Tensor

    def __init__(self, clothing: bool = False) -> None:
        super().__init__()
        start_warp()
        with _built_cache():
            self.model = _construct(clothing)
        self.model.requires_grad_(False)
        self.register_buffer("faces", self.model.faces.long(), persistent=False)
        self.register_buffer("body_vertices", torch.unique(self.faces), persistent=False)
        self.joint_names = list(self.model.bone_labels)
        self.parents = [int(p) for p in self.model.bone_parents]
        self.shape_names = list(self.model.phenotype_labels)
        self.face_names = list(self.model.facial_action_labels)
        # roma, which anny rotates with, keeps a table from its first use; made under inference_mode
        # it would end all training.
        with torch.inference_mode(False), torch.no_grad():
            self.rest(torch.full((1, len(self.shape_names)), 0.5))

    def forward(
        self,
        pose: torch.Tensor,
        root: torch.Tensor,
        shape: torch.Tensor,
        face: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose the body.

        Args:
            pose: (B, J, 3) rotation vectors or (B, J, 3, 3) rotation matrices.
            root: (B, 3) metres, where the pelvis is put.
            shape: (B, 6) or (1, 6), in the order of ``shape_names``.
            face: (B, 52) or (1, 52) facial actions, or None for a face at rest.
        Returns:
            vertices (B, V, 3) and joints (B, J, 3), float32 metres.
        """
        return self.posed(pose, root, self.rest(shape, face))

    def rest(
        self, shape: torch.Tensor, face: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns a body at rest, for ``posed`` and ``joints_at``, to pay for its shape once.

        Args:
            shape: (B, 6).  face: (B, 52) or None.  B is 1, or that of the poses to come.
        Returns:
            anny's own dict of "rest_vertices" (B, V, 3), "rest_bone_poses" (B, J, 4, 4) and more.
        """
        face = shape.new_zeros(1, len(self.face_names)) if face is None else face
        # bf16 would move vertices by 3 mm.
        with torch.autocast(shape.device.type, enabled=False):
            none = shape.new_zeros(1, 0).float()
            return self.model.get_rest_model(
                self.model._get_phenotype_blendshape_coefficients(shape.float(), none, face.float())
            )

    def posed(
        self, pose: torch.Tensor, root: torch.Tensor, rest: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns vertices (B, V, 3) and joints (B, J, 3) of a body at rest in some poses.

        See ``forward``.
        """
        with torch.autocast(pose.device.type, enabled=False):
            moved, bones = self.model.get_bone_transforms(
                _homogeneous(pose, root), rest["rest_bone_poses"]
            )
            vertices = rest["rest_vertices"].expand(len(moved), -1, -1)
            return self.model.get_skinned_vertices(
                rest_vertices=vertices, bone_transforms=moved
            ), bones[..., :3, 3]

    def joints_at(
        self, pose: torch.Tensor, root: torch.Tensor, rest: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns joints (B, J, 3) alone, without skinning; see ``posed``."""
        with torch.autocast(pose.device.type, enabled=False):
            return self.model.get_bone_transforms(
                _homogeneous(pose, root), rest["rest_bone_poses"]
            )[1][..., :3, 3]


def cache_folder() -> str:
    """Returns where anny's built files are kept: ANNY_CACHE_DIR, or ~/.cache/anny."""
    check_home()
    from anny.paths import get_anny_cache_path

    return str(get_anny_cache_path())


@contextlib.contextmanager
def locked(folder: str) -> Generator[None]:
    """Hold the one lock of a cache folder.

    Of many processes one builds and the others wait.

    Where there are no locks, two may build at once: each writes files of its own and renames
    them.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(os.path.join(folder, "counterpose.lock"), os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise failure_of(
            error, f"cannot write the body model's cache, {folder}: {explain(error)}; {MEND}"
        ) from None
    try:
        lock_file(handle)
        yield
    finally:
        os.close(handle)


def _construct(clothing: bool) -> "Anny":
    import anny

    if clothing:
        return anny.Anny(facial_actions="all", topology="anny-full").to(torch.float32)
    return anny.Anny(facial_actions="all").to(torch.float32)


@contextlib.contextmanager
def _built_cache() -> Generator[None]:
    """Make sure that both results are in the cache, whole, before anny looks for them."""
    import anny
    from anny.paths import set_anny_cache_path

    folder = cache_folder()
    # What lies there is unpickled.
    refuse_planted(folder, "set ANNY_CACHE_DIR to a folder of your own")
    done = os.path.join(folder, f"counterpose-anny-{anny.__version__}.ok")
    if not os.path.exists(done):
        with locked(folder):
            if not os.path.exists(done):
                log.info(
                    f"building the body model: about a minute, once; kept in {folder} "
                    f"(ANNY_CACHE_DIR changes that)"
                )
                scratch = tempfile.mkdtemp(prefix="building-", dir=folder)
                try:
                    set_anny_cache_path(scratch)
                    for clothing in (True, False):
                        _construct(clothing)
                    _keep_results(scratch, folder)
                except OSError as error:
                    raise failure_of(
                        error, f"cannot build the body model in {folder}: {explain(error)}; {MEND}"
                    ) from None
                finally:
                    set_anny_cache_path(folder)
                    shutil.rmtree(scratch, ignore_errors=True)
                with open(done, "w"):
                    pass
    yield


def _keep_results(scratch: str, folder: str) -> None:
    """Move what is loaded later.

    1.1 GB of intermediate files stay behind and are deleted with the scratch folder.
    """
    for version in os.listdir(scratch):
        source = os.path.join(scratch, version)
        if os.path.isdir(source):
            os.makedirs(os.path.join(folder, version), exist_ok=True)
            for name in os.listdir(source):
                if name.startswith("build_compact_model_data"):
                    # Not engine.run.files: anny wrote it whole, in a folder of its own.
                    os.replace(os.path.join(source, name), os.path.join(folder, version, name))


def _homogeneous(pose: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    rotation = pose.float() if pose.ndim == 4 else axis_angle_to_matrix(pose.float())
    out = torch.zeros(*rotation.shape[:2], 4, 4, device=rotation.device)
    out[..., :3, :3] = rotation
    out[:, 0, :3, 3] = root
    out[..., 3, 3] = 1
    return out
