"""Judging a run crop by crop, beside the mean pose, no pre-training and another network."""

from collections.abc import Mapping

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters
from data.loading.crops import TAGS
from engine.geometry import axis_angle_to_matrix
from engine.pose_metrics import mpjpe, pa_mpjpe
from finetune.attack import Attack
from finetune.evaluation import metrics
from finetune.evaluation.calibration import Calibration
from finetune.evaluation.prompted import Prompted, measure_visible
from finetune.heads.base import Prediction, pose_body
from finetune.inference.predictor import Predictor
from finetune.people import crop_people, unmirror
from finetune.person import Person
from finetune.views import Targets, View, view
from finetune.viz.raster import shared_raster

MASK_SIDE = 64


class Judge:
    """Collects errors of all rows of the table, batch by batch.

    Args:
        predictor: of the run.
        plain: that of the run without pre-training, or None.
        masks: whether images come with person masks.
        beside: of another network with the same body model, or None.
        attack: what changes images against the run for a row of its own, or None.
        prompted: what gives the run keypoints for rows of their own, or None.

    Attributes:
        values: {row: {metric: [(n,) arrays]}}.
        ceiling: [(n,) arrays], overlap of the true mesh with the person mask.
        found: [[Person]] of the model, truth: [[Person]], a list a batch.
        shown: rows of the examples.
        calibration: of what the model says of how sure it is.
        made: whether all crops show synthetic humans.
    """

    def __init__(
        self,
        predictor: Predictor,
        plain: Predictor | None,
        masks: bool,
        beside: Predictor | None = None,
        attack: Attack | None = None,
        prompted: Prompted | None = None,
    ) -> None:
        self.attack, self.prompted, self.masks = attack, prompted, masks
        self.predictor, self.plain, self.beside = predictor, plain, beside
        self.body: BodyModel = predictor.body
        if self.body.faces is None:
            raise ValueError(f"a coarse {self.body.name} has no surface to judge")
        self.faces = self.body.faces.cpu()
        self.size = predictor.config.model.size
        self.hand = self.body.kind == "hand"
        self.targets = Targets(self.body)
        self.columns = [
            metric["key"]
            for metric in metrics.columns(self.body.kind)
            if masks or self.hand or metric["key"] != "iou"
        ]
        self.values = {row: {key: [] for key in self.columns} for row in self.list_rows()}
        self.found: list[list[Person]] = []
        self.truth: list[list[Person]] = []
        self.ceiling: list[np.ndarray] = []
        self.shown: list[int] = []
        self.made = False
        self.calibration = Calibration()

    def list_rows(self) -> list[str]:
        """Return the rows of the table."""
        rows = ["model"]
        if self.plain is not None:
            rows.append("scratch")
        if self.attack is not None:
            rows.append("attacked")
        if self.prompted is not None:
            rows += self.prompted.rows
        if self.beside is not None:
            rows.append("beside")
        return [*rows, "turned", "mean"]

    def list_compared(self) -> list[str]:
        """Return the rows, beside that without pre-training, that the run is compared with."""
        return []

    @torch.no_grad()
    def add(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Judge a batch of whole crops.

        Tensors of data.loading.crops.layout on the predictor's device.
        """
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        seen = view(batch, self.size)
        target = self.targets(labels, seen)
        answers = self.answer(batch, seen, target)
        if self.beside:
            size = self.beside.config.model.size
            other = view(batch, size)  # its images may be larger
            answers["beside"] = self.beside.model(other.images, other.K, self.body)
        truth = self._true_meshes(labels, seen, target)
        if self.attack is not None:
            answers["attacked"] = self._answer_attacked(self.attack, batch, seen, truth)
        if self.prompted is not None:
            answers |= self.prompted.answer(batch, seen, truth)
        true = unmirror(truth, seen.flip, self.body)
        areas = metrics.vertex_areas(true.vertices.cpu(), self.faces)
        K, masks = _mask_camera(batch), None
        if "iou" in self.columns:
            drawn = self._silhouettes(true.vertices, K)
            masks = drawn if self.hand else _person_masks(batch["mask"])
            self.ceiling.append(metrics.iou(drawn, masks).numpy())
            if self.prompted is not None and self.masks:
                person = _person_masks(batch["mask"])
                self.prompted.visible.append(measure_visible(drawn, person))
        for row, answer in answers.items():
            found = unmirror(answer, seen.flip, self.body)
            if row == "model":
                self.calibration.add(found, true)
            for metric, value in self._errors(found, true, areas, masks, K).items():
                self.values[row][metric].append(value.cpu().numpy())
        self.found.append(crop_people(answers["model"], seen, self.body, batch))
        self.truth.append(crop_people(truth, seen, self.body, batch))

    def _answer_attacked(
        self, attack: Attack, batch: Mapping[str, torch.Tensor], seen: View, truth: Prediction
    ) -> Prediction:
        """The run's answer to images that are changed against it: its keypoints' error grows."""
        true = truth.keypoints - truth.keypoints[:, :1]

        def miss(images: torch.Tensor) -> torch.Tensor:
            points = self.predictor.model(images, seen.K, self.body).keypoints
            return (points - points[:, :1] - true).abs().sum()

        moved = attack.move(seen.require_images(), batch["tags"], miss)
        return self.predictor.model(moved, seen.K, self.body)

    def answer(
        self, batch: Mapping[str, torch.Tensor], seen: View, target: BodyParameters
    ) -> dict[str, Prediction]:
        """Return {row: Prediction} of full meshes.

        Of the runs, and of the mean body at the mean translation, as it is and with the root's true
        orientation ("turned").

        Args:
            batch: as for ``add``.  seen: how the network sees it.  target: what is true.
        """
        answers = {"model": self.predictor.model(seen.images, seen.K, self.body)}
        mean = self.predictor.model.place_means(seen.K, self.size)
        answers["mean"] = pose_body(self.body, mean)
        rotated = self.predictor.model.place_means(seen.K, self.size)
        rotated.pose[:, 0] = target.pose[:, 0]
        # "turned" is the stored name of the row: the mean pose, rotated.
        answers["turned"] = pose_body(self.body, rotated)
        if self.plain:
            answers["scratch"] = self.plain.model(seen.images, seen.K, self.body)
        return answers

    def _true_meshes(
        self, labels: Mapping[str, torch.Tensor], seen: View, target: BodyParameters
    ) -> Prediction:
        """The true surface, the face's expression included."""
        own = pose_body(self.body, target)
        whole = self.body.whole
        if not whole.expression_names:
            return own
        person = Targets(whole)(labels, seen)
        face = labels["face"][:, : len(whole.expression_names)]
        vertices, _ = whole(person.pose, person.translation, person.shape, face)
        vertices = vertices[:, self.body.vertex_ids]
        keypoints = self.body.keypoints(vertices, own.joints)
        return Prediction(vertices, own.joints, keypoints, own.parameters)

    def _errors(
        self,
        found: Prediction,
        true: Prediction,
        areas: torch.Tensor,
        masks: torch.Tensor | None,
        K: np.ndarray,
    ) -> dict[str, torch.Tensor]:
        """{metric: (B,)} of unmirrored predictions."""
        vertices, points = found.vertices.cpu(), found.keypoints.cpu()
        true_vertices, true_points = true.vertices.cpu(), true.keypoints.cpu()
        roots = points[:, 0], true_points[:, 0]
        out = {
            "mpjpe": mpjpe(points, true_points, 0),
            "pa_mpjpe": pa_mpjpe(points, true_points),
            "pve": metrics.pve(vertices, true_vertices, *roots, areas),
            "pve_plain": metrics.pve_plain(vertices, true_vertices, *roots),
            "pa_pve": metrics.pa_pve(vertices, true_vertices, areas),
            "pa_pve_plain": metrics.pa_pve_plain(vertices, true_vertices),
        }
        if self.hand:
            out["f5"], out["f15"] = metrics.f_score(vertices, true_vertices, (0.005, 0.015))
        if masks is not None:
            out["iou"] = metrics.iou(self._silhouettes(vertices, K), masks)
        return out

    def _silhouettes(self, vertices: torch.Tensor, K: np.ndarray) -> torch.Tensor:
        """Return (B, 64, 64) bool: where at least half of a cell is covered.

        A clip's person masks are made in the same way.
        """
        side = 2 * MASK_SIDE
        drawn = shared_raster("cpu").silhouettes(
            vertices.cpu().numpy(), self.faces.numpy(), K, (side, side)
        )
        cells = torch.from_numpy(drawn).float()
        cells = cells.unflatten(2, (MASK_SIDE, 2)).unflatten(1, (MASK_SIDE, 2))
        return cells.mean((2, 4)) >= 0.5


def _mask_camera(batch: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(B, 3, 3) float64 intrinsics in pixels of twice a mask's resolution."""
    K = batch["K"].cpu().double().numpy().copy()
    sizes = batch["tags"][:, TAGS.index("size")].cpu().numpy()
    K[:, :2] *= (2 * MASK_SIDE / sizes)[:, None, None]
    return K


def _person_masks(bits: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64) bool of (B, 512) uint8."""
    masks = np.unpackbits(bits.cpu().numpy(), axis=1).reshape(-1, MASK_SIDE, MASK_SIDE)
    return torch.from_numpy(masks) > 0
