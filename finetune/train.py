"""Fine-tuning: what is built and what a step is; engine/training/loop.py runs it."""

import torch
from torch import nn

from data.bodies.models import open_model
from data.loading.build import (
    count_excluded,
    open_crop_loader,
    open_crop_order,
    people_at,
    sample_labels,
    val_crops,
)
from data.loading.crops import TAGS
from data.loading.device import ToDevice
from data.loading.quarantine import BadRate
from data.sampling.manifest import bad_shards
from data.sampling.seen import Seen, seen_by
from engine.checkpoint import history
from engine.distributed import hardware, process_group
from engine.geometry import axis_angle_to_matrix
from engine.pose_metrics import mpjpe, pa_mpjpe
from engine.training import loop
from engine.training.trainer import Trainer
from finetune import losses, panels
from finetune.config import FinetuneConfig
from finetune.means import means
from finetune.model import Recovery, place_of
from finetune.views import Targets, view
from pretrain import header, run_reporting, weights
from pretrain.blocks import prepare
from pretrain.replay import replay as replay_step

REPLACED = slice(TAGS.index("bad"), TAGS.index("no_pair") + 1)
PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]
MEAN_CLIPS = 512  # labels that the mean parameters are taken from


class Recovering(nn.Module):
    """From the loader's arrays to the losses of each crop: everything that happens on the device.

    Only the network itself runs in bf16: body models in it are off by 3 mm, crops by half a pixel.
    """

    def __init__(self, model, body, size, bf16):
        super().__init__()
        self.model, self.size, self.bf16 = model, size, bf16
        # In a list, so that the mesh is no part of the module: its tables are neither synchronised
        # nor saved.
        self._body, self.targets = [body], Targets(body)

    @property
    def body(self):
        return self._body[0]

    def seen(self, batch):
        """(View, Target) of a batch of data.loading.crops arrays as tensors."""
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        seen = view(batch, self.size)
        return seen, self.targets(labels, seen)

    def recover(self, images, K):
        """The finetune.model.Body of images."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(images, K)

    def forward(self, batch):
        """{term: (B,)} of finetune.losses."""
        seen, target = self.seen(batch)
        found = self.recover(seen.images, seen.K)
        return losses.terms(
            self.body, found, target, seen.K, self.size, place_of(target.root, seen.K, self.size)
        )


class Finetuner(Trainer):
    """What fine-tuning adds to a run: labelled crops in, meshes out.

    Args:
        config: finetune.config.FinetuneConfig.  processes:
            engine.distributed.process_group.Processes.
    """

    room = "finetune"

    def __init__(self, config, processes):
        order = processes.from_first(
            lambda: open_crop_order(config.data, config.batch, config.seed)
        )
        body = open_model(config.body_model).to(processes.device)
        model, before = build(config, order, body, processes.device)
        prepare(model.encoder.blocks, config, processes.device)
        bf16 = hardware.bf16(config.precision, processes.device)
        module = Recovering(
            model,
            body.coarse(config.coarse_vertices).to(processes.device),
            config.model.image_size,
            bf16,
        )
        super().__init__(
            config,
            processes,
            model,
            module,
            len(losses.TERMS) + 2,
            REPLACED,
            lambda name: config.encoder_lr_mult if name.startswith("encoder.") else 1.0,
            bf16=bf16,
        )
        self.order, self.bf16, self.full = order, bf16, body
        self.excluded = processes.from_first(lambda: count_excluded(order, config.data))
        self.weights = {name: getattr(config.loss, name) for name in losses.TERMS}
        self.bad_list, self.bad_rate, self.bad_total = None, BadRate(config.data.bad_max), (0, 0)
        skip = bad_shards(config.run, order)
        self.loader = open_crop_loader(
            order,
            config.data,
            processes.rank,
            processes.world,
            process_group.loader_workers(config.data.workers),
            skip,
        )
        self.to_device = ToDevice(self.loader, self.device)
        self.val = val_crops(order, config.data, config.log.val_clips, skip)
        if self.val is not None:
            self.people = people_at(order, config.data, self.val["tags"][:, PLACE])
        self.seen = before.union(seen_by(order, self.people if self.val is not None else []))

    def loss(self, piece):
        """(loss, sums of the terms, of the loss, and crops) of a part of this rank's rows."""
        found = self.wrapped(piece)
        total = sum(self.weights[name] * values for name, values in found.items())
        meters = [*(found[name] for name in losses.TERMS), total, torch.ones_like(total)]
        return total.sum() / self.config.batch, torch.stack(meters).detach().double().sum(1)

    def losses(self, sums):
        return {
            f"loss/{name}": value / sums[-1]
            for name, value in zip((*losses.TERMS, "total"), sums[:-1], strict=True)
        }

    @torch.no_grad()
    def evaluate(self):
        """{"val/mpjpe", "val/pa_mpjpe"} in mm over the fixed crops; each rank takes its
        share."""
        total = torch.zeros(3, dtype=torch.float64, device=self.device)
        body = self.step_module.body
        self.model.eval()
        for rows in self.shares(len(self.val["tags"])):
            batch = self.to_device({k: v[rows] for k, v in self.val.items()})
            seen, target = self.step_module.seen(batch)
            found = self.step_module.recover(seen.images, seen.K)
            points, true = (
                body.keypoints(*body(one.pose, one.root, one.shape)) for one in (found, target)
            )
            errors = mpjpe(points, true, 0), pa_mpjpe(points, true)
            total += torch.stack([*(e.sum() for e in errors), errors[0].new_tensor(len(points))])
        self.model.train()
        *sums, count = self.total(total)
        return {"val/mpjpe": sums[0] / count, "val/pa_mpjpe": sums[1] / count}

    def draw(self, folder, step):
        return run_reporting.sendable(self, panels.save(self, folder, step))

    def per_sample(self, batch):
        """(B,) losses of a batch of tensors."""
        return sum(self.weights[name] * values for name, values in self.step_module(batch).items())

    def portray(self, arrays, labels, title):
        """A PIL image of the loader's crops, a column each."""
        return panels.seen_sheet(self, arrays, labels, title)

    def load(self, path):
        """As Trainer's; with what the checkpoint says that it and what it began from saw."""
        self.seen = self.seen.union(header.read_seen(path))
        return super().load(path)

    def save(self, run, step, last):
        super().save(run, step, last, header.make_header(self.model.config, self.seen))

    def open_run(self):
        return run_reporting.open_run(self, "finetune train")

    def announce(self, start):
        """Print what is derived from the config, once, before the first step."""
        config = self.config
        run_reporting.list_people(self)
        if start == config.steps:
            print(f"run {config.run} is complete at step {start}; a new run=DIR starts another")
            return
        count = [
            sum(p.numel() for p in part.parameters()) / 1e6
            for part in (self.model.encoder, self.model.head)
        ]
        print(
            f"run {config.run}: "
            + (f"goes on at step {start}" if start else "starts")
            + f", to step {config.steps} on "
            f"{self.processes.world} x {self.device.type}, {'bf16' if self.bf16 else 'float32'}; "
            + (f"from {config.init}" if config.init else "without pre-training (init= is not set)")
        )
        print(
            f"model: encoder {count[0]:.1f} M parameters, head {count[1]:.1f} M; body model "
            f"{config.body_model}, "
            f"{len(self.step_module.body.vertex_ids)} of its {len(self.full.vertex_ids)} vertices "
            f"in training"
        )
        run_reporting.announce_data(
            config, self.order, self.excluded, f"batch {config.batch} crops"
        )
        if self.val is None:
            print(
                "note: nothing is held out (data.val_clips=0 or fewer than 10 clips): no held-out "
                "errors and no images"
            )

    def measured(self, step, crops, seconds):
        return run_reporting.measured(self, step, crops, seconds, "crops")

    def note_bad(self):
        run_reporting.note_bad(self)

    def list_bad(self, folder, slot):
        run_reporting.list_bad(self, folder, slot)


def build(config, order, body, device):
    """(network, Seen) of a config on a device: from the seed, its encoder from ``init`` if it is
    set, its means from labels.

    The Seen is what ``init`` saw.
    """
    before = Seen()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Recovery(config.model, config.head, len(body.joint_names), len(body.shape_names))
    # A run that goes on has weights and means of its own, and needs its beginnings no more.
    # The marker tells: the first process alone reads the files through, when it opens the run.
    if not history.list_complete(config.run):
        if config.init:
            before = weights.init_encoder(model.encoder, config.model, config.init)
        labels = sample_labels(order, config.data, MEAN_CLIPS, bad_shards(config.run, order))
        labels = {name: torch.from_numpy(values).to(device) for name, values in labels.items()}
        model.set_means(
            *(value.cpu() for value in means(labels, Targets(body), config.model.image_size))
        )
    return model.to(device), before


def train(config):
    """Train to ``config.steps``; returns the exit code."""
    return loop.train(config, Finetuner)


def replay(argv):
    """``python -m finetune replay``; returns the exit code."""
    return replay_step(argv, FinetuneConfig, "finetune train", Finetuner)
