"""Mesh recovery: labelled crops in, meshes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size, find_longer
from data.loading import appearance_keys as columns
from data.loading.appearance import Appearance, find_known, open_appearance
from data.loading.build import open_crop_loader, open_crop_order, sample_labels
from data.loading.clip_task import ClipTask
from data.loading.crops import TAGS
from data.loading.loader import Loader
from data.loading.validation import val_crops
from data.sampling.manifest import quarantined_shards
from data.sampling.order import Order
from data.sampling.seen import Seen
from engine.checkpoint import history
from engine.distributed import hardware, process_group
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from engine.logging.console import get_logger
from engine.logging.metric_registry import MetricBook
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch
from finetune import losses, panels
from finetune.attack import Attack
from finetune.config import FinetuneConfig
from finetune.fit.training import TrainedFits
from finetune.given import read_given, tell_known
from finetune.heads.base import ImagePrediction, Truth, pose_body
from finetune.inference.network import Network
from finetune.init_head import begin_from, take_encoder
from finetune.layers import ENCODER, count_layers_after
from finetune.lifting import Lifting
from finetune.masks import make_masks
from finetune.means import compute_means
from finetune.metric_book import METRICS, describe_measures
from finetune.model import Recovery
from finetune.prompts import make_prompts
from finetune.source_losses import SourceLosses
from finetune.tasks import TASKS
from finetune.views import Targets, View, view
from pretrain import header
from pretrain.blocks import prepare

if TYPE_CHECKING:
    from PIL import Image

MEAN_CLIPS = 512  # labels that the mean parameters are taken from
LIFTED = "lifted/"  # before the terms of people without an image
LEFT_OUT = ("tags", "face")  # of labels, by those who are given as keypoints alone
# Rows, and the body model whose points are wanted: how they are seen, what is true, what is found.
Answer = Callable[[Batch, BodyModel], tuple[View, BodyParameters, ImagePrediction]]

log = get_logger(__name__)


class Recovering(nn.Module):
    """From the loader's arrays to the losses of each crop: everything that happens on the device.

    Only the network itself runs in bf16: body models in it are off by 3 mm, crops by half a pixel.
    """

    def __init__(
        self,
        model: Recovery,
        body: BodyModel,
        size: Size,
        bf16: bool,
        appearance: Appearance | None = None,
        prompt_share: float = 0.0,
        lifting: Lifting | None = None,
        mask_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.mask_share = mask_share
        self.appearance, self.prompt_share, self.lifting = appearance, prompt_share, lifting
        self.model, self.size, self.bf16 = model, size, bf16
        # In a list: the mesh is no part of the module, its tables are not synchronised or saved.
        self._body, self.targets = [body], Targets(body)
        self.terms = losses.list_terms(model.head)
        self.attack: Attack | None = None
        self.weights: Mapping[str, float] = {}

    @property
    def body(self) -> BodyModel:
        """The coarse body model."""
        return self._body[0]

    def seen(self, batch: Batch) -> tuple[View, BodyParameters]:
        """(View, BodyParameters) of a batch of data.loading.crops arrays as tensors."""
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        seen = view(batch, self.size, self.appearance)
        return seen, self.targets(labels, seen)

    def recover(
        self,
        images: torch.Tensor,
        K: torch.Tensor,
        body: BodyModel,
        prompts: torch.Tensor | None = None,
        judged: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> ImagePrediction:
        """The finetune.heads.base.Prediction of images; of a head without a mesh another.

        ``body``: the coarse body model or the full one.  The others as in Recovery.forward.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(images, K, body, prompts, judged, masks)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{term: (B,)} of finetune.losses; those of people without an image as "lifted/TERM"."""
        truth = self.tell_truth(batch)
        prompts = self._make_prompts(batch, truth)
        # As good as a number of its own: it is in [0, 1) and says little else that matters here.
        judged = batch["look"][:, columns.PROMPT.stop - 1] if prompts is not None else None
        given = prompts, judged, self._make_masks(batch, truth)
        if self.attack is not None:
            self._attack(self.attack, batch, truth, given)
        found = self.recover(truth.require_images(), truth.K, self.body, *given)
        terms = losses.compute_terms(self.terms, found, truth)
        return terms | self._lift(batch) if self.lifting else terms

    def _attack(
        self,
        attack: Attack,
        batch: Batch,
        truth: Truth,
        given: Sequence[torch.Tensor | None],
    ) -> None:
        """Change the images of a share of the crops against the network."""
        rows = attack.choose(batch["tags"])
        if truth.seen is None or not len(rows):
            return
        aim = self.tell_truth({name: values[rows] for name, values in batch.items()})
        of_rows = [None if values is None else values[rows] for values in given]

        def weigh_loss(images: torch.Tensor) -> torch.Tensor:
            assert aim.seen is not None
            aim.seen = replace(aim.seen, images=images)
            found = self.recover(images, aim.K, self.body, *of_rows)
            terms = losses.compute_terms(self.terms, found, aim)
            return reduce(torch.add, [self.weights[name] * terms[name].sum() for name in terms])

        images = truth.require_images()
        moved = attack.move(images[rows], batch["tags"][rows], weigh_loss)
        truth.seen = replace(truth.seen, images=images.index_copy(0, rows, moved))

    @torch.no_grad()
    def tell_truth(self, batch: Batch) -> Truth:
        """What a batch's crops show; its mesh is coarse."""
        seen, target = self.seen(batch)
        truth = Truth(pose_body(self.body, target), seen.K, self.size, seen, batch, body=self.body)
        if "present" in batch:
            points = truth.mesh.keypoints
            true = points, losses.project_points(points, truth.K)
            truth.given = read_given(batch, seen, true, find_longer(self.size), self.body)
        return truth

    @torch.no_grad()
    def _make_prompts(self, batch: Batch, truth: Truth) -> torch.Tensor | None:
        """Keypoints as a detector would find them, for a share of the crops."""
        if not self.prompt_share or "look" not in batch:
            return None
        u = batch["look"][:, columns.PROMPT]
        prompts = make_prompts(self.body, truth.mesh, truth.K, self.size, u, self.prompt_share)
        if truth.given is None:
            return prompts
        # Of a crop without a mesh nobody knows all of them: it is given none.
        return prompts * tell_known(truth.given.present, ("mesh",))[:, None, None]

    @torch.no_grad()
    def _make_masks(self, batch: Batch, truth: Truth) -> torch.Tensor | None:
        """Outlines as a detector would find them, for a share of the crops."""
        find_person = None if truth.seen is None else truth.seen.find_person
        if not self.mask_share or "look" not in batch or find_person is None:
            return None
        u, known = batch["look"][:, -columns.MASK_DRAWS :], find_known(batch["mask"])
        return make_masks(find_person(), known, u, self.mask_share, self.model.config.grid())

    def _lift(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{"lifted/TERM": (B,)} means over the people without an image that each crop brings."""
        assert self.lifting is not None
        count = len(batch["look"])
        numbers = batch["look"][:, columns.PROMPT.stop : self.lifting.augment.stop_lifted]
        u = numbers.reshape(-1, columns.LIFT_DRAWS)
        with torch.no_grad():
            people = self.lifting(u)
        with torch.autocast(u.device.type, torch.bfloat16, enabled=self.bf16):
            found = self.model.lift(
                people.truth.K, self.size, self.lifting.body, people.prompts, people.judged
            )
        terms = losses.compute_terms(losses.TERMS, found, people.truth)
        return {f"{LIFTED}{name}": values.view(count, -1).mean(1) for name, values in terms.items()}


@TASKS.register("mesh")
class MeshTask(ClipTask[FinetuneConfig]):
    """A head on an encoder that learns the parameters of a body model."""

    command = "finetune train"
    schema = FinetuneConfig
    unit = "crops"
    metrics = METRICS
    tags = TAGS

    # Narrower than the Task's, and set once, by the constructor.
    model: Recovery  # pyrefly: ignore - see above
    step_module: Recovering  # pyrefly: ignore - see above
    body: BodyModel

    def __init__(self, config: FinetuneConfig, processes: Processes) -> None:
        order = processes.from_first(lambda: self.open_order(config))
        super().__init__(config, processes, order)
        self.body = config.open_body().to(processes.device)
        if self.body.kind != config.data.rules.crops:
            raise UserError(
                f"body={self.body.name} is a {self.body.kind}, "
                f"data.rules.crops={config.data.rules.crops}"
            )
        self.model, before = build(config, order, self.body, processes.device)
        if config.encoder_lr_mult == 0:
            self.model.encoder.requires_grad_(False)
        prepare(self.model.encoder.blocks, config, processes.device)
        self.bf16 = hardware.bf16(config.precision, processes.device)
        self.step_module = self.make_step_module()
        terms = losses.list_terms(self.model.head)
        self.terms = [term.name for term in terms]
        self.weights = losses.weigh_terms(terms, config)
        if self.step_module.lifting:
            names = [term.name for term in losses.TERMS]
            self.terms += [LIFTED + name for name in names]
            self.weights |= {LIFTED + name: self.weights[name] for name in names}
        self.by_source = None
        if config.data.rules.labels == "any":
            self.by_source = SourceLosses(terms, [source.name for source in order.sources])
        self.meter_count = len(self.terms) + 2 + (self.by_source.count if self.by_source else 0)
        if config.robust.share:
            self.step_module.weights = self.weights
            self.step_module.attack = Attack(config.robust.radius, config.robust.share, config.seed)
        self.measures = losses.list_measures(self.model.head)
        self.metrics = METRICS.extend(MetricBook(metrics=describe_measures(self.measures)))
        loader = self.open_loader()
        try:
            self.fits = self._open_fits(loader)
        except UserError:
            loader.close()
            raise
        self.use_data(loader, self.read_val(), before)

    @staticmethod
    def open_order(config: FinetuneConfig) -> Order:
        """Return the Order of the run."""
        return open_crop_order(config.data, config.batch, config.seed)

    def make_step_module(self) -> Recovering:
        """Return what goes from the loader's arrays to losses; ``body`` and ``model`` are set."""
        config, device = self.config, self.processes.device
        return Recovering(
            self.model,
            self.body.coarse(config.coarse_vertices).to(device),
            config.model.size,
            self.bf16,
            open_appearance(config.data.augment, device),
            config.data.augment.prompt_share,
            self._open_lifting() if config.data.augment.lifted else None,
            config.data.augment.mask_share,
        )

    def open_loader(self) -> Loader:
        """Return the loader of this rank."""
        return open_crop_loader(
            self.order,
            self.config.data,
            self.processes.rank,
            self.processes.world,
            process_group.loader_workers(self.config.data.workers),
            self.skip,
            self.body.keypoint_names,
            self.body.label_choice,
        )

    def read_val(self) -> Arrays | None:
        """Return the validation rows, or None where there are none."""
        config = self.config
        choice = self.body.label_choice
        return val_crops(self.order, config.data, config.log.val_clips, self.skip, choice)

    def answer(self, batch: Batch, body: BodyModel) -> tuple[View, BodyParameters, ImagePrediction]:
        """Return how rows are seen, what is true of them, and what the network finds in them.

        Args:
            body: the body model whose points are wanted, coarse or full.
        """
        seen, target = self.step_module.seen(batch)
        return seen, target, self.step_module.recover(seen.require_images(), seen.K, body)

    def judge(self, batch: Batch, body: BodyModel, answer: Answer) -> tuple[ImagePrediction, Truth]:
        """Return what ``answer`` finds in rows, and what is true of them; see there."""
        seen, target, found = answer(batch, body)
        mesh, size = pose_body(body, target), self.step_module.size
        return found, Truth(mesh, seen.K, size, seen, batch, body=body)

    def _open_lifting(self) -> Lifting:
        """The people of whom keypoints alone are given, from labels of the run's shards."""
        config = self.config
        clips, choice = config.data.augment.lifted_clips, self.body.label_choice
        try:
            labels = sample_labels(self.order, config.data, clips, self.skip, True, choice)
        except UserError as error:
            raise UserError(f"data.augment.lifted (0 goes without) wants labels: {error}") from None
        tensors = {
            name: torch.from_numpy(values).to(self.device)
            for name, values in labels.items()
            if name not in LEFT_OUT
        }
        lean = self.body.lean(config.coarse_vertices).to(self.device)
        return Lifting(tensors, config.data.augment, lean, config.model.size, config.margin)

    def _open_fits(self, loader: Loader) -> TrainedFits | None:
        """The labels that are fitted in training, if any are. ``loader``: the run's."""
        config = self.config
        if not config.fit_every:
            return None
        if not self.model.head.has_parameters:
            raise UserError(
                f"fit_every={config.fit_every} and head.name={config.head.name}, which predicts no "
                "parameters of a body model: a fit begins with them"
            )
        network = Network(config, self.model, self.body, self.device)
        return TrainedFits(config, self.processes, network, self.order, loader.reader)

    def prepare_step(self, step: int, shares: Shares) -> None:
        """Make the fits that are due; see Task."""
        if self.fits is not None:
            self.fits.prepare(step, shares)

    def to_device(self, arrays: Arrays) -> Batch:
        """The loader's arrays as tensors on the device, with fits for labels where there are."""
        batch = super().to_device(arrays)
        if self.fits is None or "present" not in batch:
            return batch
        return self.fits.put(batch, arrays["tags"])

    def measure_data(self, step: int, replaced: Sequence[int]) -> dict[str, float]:
        """As ClipTask's, and how many people have fits."""
        found = super().measure_data(step, replaced)
        return found if self.fits is None else found | self.fits.measure()

    def lr_mult(self, name: str) -> float:
        """encoder_lr_mult for the encoder, times optim.layer_decay for each layer after."""
        if not name.startswith(ENCODER):
            return 1.0
        depth = len(self.model.encoder.blocks)
        decay = self.config.optim.layer_decay ** count_layers_after(name, depth)
        return self.config.encoder_lr_mult * decay

    def trained_from(self, name: str) -> int:
        """head_first_steps for the encoder's weights."""
        return self.config.head_first_steps if name.startswith(ENCODER) else 0

    def compute_loss(self, module: nn.Module, piece: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, sums of the terms, of the loss, and crops) of a part of this rank's rows."""
        found = module(piece)
        total = self._weigh(found)
        meters = [*(found[name] for name in self.terms), total, torch.ones_like(total)]
        sums = torch.stack(meters).detach().double().sum(1)
        if self.by_source:
            source = piece["tags"][:, TAGS.index("source")]
            sums = torch.cat([sums, self.by_source.sum(found, piece["present"], source)])
        return total.sum() / self.config.batch, sums

    def _weigh(self, found: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return reduce(torch.add, [self.weights[name] * found[name] for name in found])

    def name_losses(self, sums: Sequence[float]) -> dict[str, float]:
        """{"loss/TERM"} means over the crops; of partial labels "loss/TERM/SOURCE" too."""
        names = (*self.terms, "total")
        count, crops = len(names), sums[len(names)]
        out = {f"loss/{name}": value / crops for name, value in zip(names, sums, strict=False)}
        if self.by_source is None:
            return out
        own = self.by_source.name(sums[count + 1 :])
        mixed = {f"loss/{term.name}" for term in self.by_source.terms}
        return {name: value for name, value in out.items() if name not in mixed} | own

    def evaluate(self, shares: Shares) -> dict[str, float]:
        """{"val/MEASURE"} over the fixed crops; each rank takes its share."""
        return self.measure(shares, self.answer)

    @torch.no_grad()
    def measure(self, shares: Shares, answer: Answer) -> dict[str, float]:
        """{"val/MEASURE"} over the fixed crops of what ``answer`` finds in them."""
        measures = self.measures
        total = torch.zeros(2 * len(measures), dtype=torch.float64, device=self.device)
        module, val = self.step_module, self.require_val()
        self.model.eval()
        for rows in shares.rows(len(val["tags"])):
            batch = self.to_device({k: v[rows] for k, v in val.items()})
            found, truth = self.judge(batch, module.body, answer)
            for number, measure in enumerate(measures):
                values = measure.compute(found, truth)
                known = values.isfinite()
                total[2 * number] += torch.where(known, values, 0).sum()
                total[2 * number + 1] += known.sum()
        self.model.train()
        sums = shares.total(total)
        pairs = zip(measures, sums[::2], sums[1::2], strict=True)
        return {f"val/{measure.name}": sum_ / count for measure, sum_, count in pairs if count}

    def draw_images(self, folder: Path, step: int) -> dict[str, Path]:
        """Draw validation crops with their meshes; those images that may be sent."""
        return self.select_sendable(panels.save(self, folder, step))

    def score_samples(self, batch: Batch) -> torch.Tensor:
        """(B,) losses of a batch's crops."""
        return self._weigh(self.step_module(batch))

    def draw_samples(self, arrays: Arrays, labels: Sequence[str], title: str) -> "Image.Image":
        """An image of the loader's crops, a column each."""
        return panels.draw_seen_sheet(self, arrays, labels, title)

    def read_seen(self, checkpoint: Path) -> Seen:
        """What the weights of a checkpoint saw."""
        return header.read_seen(checkpoint)

    def make_metadata(self) -> dict[str, str]:
        """The header of the weights' file."""
        return header.make_header(self.model.config, self.seen, self.model.roles)

    def announce(self, start: int) -> None:
        """Say what is derived from the config, before the first step."""
        config = self.config
        self.list_people()
        if start == config.steps:
            log.info(f"run {config.run} is complete at step {start}; a new run=DIR starts another")
            return
        begins = f"resumes at step {start}" if start else "starts"
        source = f"from {config.init}" if config.init else "without pre-training (init= is not set)"
        log.info(
            f"run {config.run}: {begins}, to step {config.steps} on {self.processes.world} x "
            f"{self.device.type}, {'bf16' if self.bf16 else 'float32'}; {source}"
        )
        encoder, head = (
            sum(p.numel() for p in part.parameters()) / 1e6
            for part in (self.model.encoder, self.model.head)
        )
        coarse = len(self.step_module.body.vertex_ids)
        log.info(
            f"model: encoder {encoder:.1f} M parameters, head {head:.1f} M; body model "
            f"{config.body_model}, {coarse} of its {len(self.body.vertex_ids)} vertices in training"
        )
        self.announce_data(f"batch {config.batch} crops")
        if self.val is None:
            log.info(
                "note: there are no validation clips (data.val_clips=0 or fewer than 10 clips): no "
                "validation errors and no images"
            )


def build(
    config: FinetuneConfig, order: Order, body: BodyModel, device: torch.device
) -> tuple[Recovery, Seen]:
    """Return (network, Seen) of a config on a device.

    From the seed, its encoder from ``init`` if it is set, its means from labels.

    The Seen is what ``init`` saw.
    """
    before = Seen()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = config.make_network(body)
    # A run that resumes has weights and means of its own, and needs its beginnings no more.
    # The marker tells: the first process alone reads the files through, when it opens the run.
    if not history.list_complete(config.run):
        if config.init_head:
            return model.to(device), begin_from(model, config)
        if config.init_encoder:
            before = take_encoder(model.encoder, config.model, config.init)
        elif config.init:
            before = model.take_pretrained(config.init)
        if not model.head.has_mesh:
            return model.to(device), before
        skip = quarantined_shards(config.run, order)
        choice = body.label_choice
        labels = sample_labels(order, config.data, MEAN_CLIPS, skip, choice=choice)
        labels = {name: torch.from_numpy(values).to(device) for name, values in labels.items()}
        model.set_means(compute_means(labels, Targets(body), config.model.size))
        model.head.begin(model.means, body)
    return model.to(device), before
