"""Pre-training: what is built and what a step is; engine/training/loop.py runs it."""

import numpy as np
import torch
from torch import nn

from data.format.index import PAIR_KINDS
from data.loading.augment import augment, crop_masks
from data.loading.build import count_excluded, open_loader, open_order, people_at, val_pairs
from data.loading.device import ToDevice
from data.loading.quarantine import BadRate
from data.loading.reader import TAGS
from data.sampling.manifest import bad_shards
from data.sampling.seen import Seen, seen_by
from engine.checkpoint import history
from engine.distributed import hardware, process_group
from engine.training import loop
from engine.training.trainer import Trainer
from pretrain import (
    header,
    masking,
    objective,
    panels,
    probe,
    reference_gain,
    run_reporting,
    weights,
)
from pretrain.blocks import prepare
from pretrain.model import CrossCompletion, flops

REPLACED = slice(TAGS.index("bad"), TAGS.index("no_pair") + 1)
KIND, SOURCE = TAGS.index("kind"), TAGS.index("source")
PLACE = [SOURCE, TAGS.index("shard"), TAGS.index("index")]


class Completion(nn.Module):
    """From the loader's arrays to the loss of each sample: everything that happens on the device.

    Only the network itself runs in bf16: in it a crop's corners would be off by half a pixel, and
    masks differ from a CPU's.
    """

    def __init__(self, model, config, bf16):
        super().__init__()
        self.model, self.config, self.bf16 = model, config, bf16

    def pairs(self, batch):
        """What a batch of tensors asks for, with R rows of K targets each, B = R * K.

        Returns:
            a (B, 3, S, S), b (R, 3, S, S) normalised, keep (B, V), masked (B, M), person (B, N),
            and what is looked at of the references (R, L), or None for all: targets i*K to i*K +
            K-1 share reference i. b is None of a network that looks at no reference.
        """
        size, rules, numbers = self.config.model.image_size, self.config.masking, batch["numbers"]
        targets = numbers.shape[1] - 1
        a = augment(
            batch["pixels"][:, :targets].flatten(0, 1), numbers[:, :targets].flatten(0, 1), size
        )
        cross = self.config.model.decoder.cross
        b = augment(batch["pixels"][:, targets], numbers[:, targets], size) if cross else None
        noise, person = (
            batch["noise"].unflatten(1, (targets + 1, -1)),
            self._persons(batch, slice(0, targets)),
        )
        keep, masked = masking.choose(
            noise[:, :targets].flatten(0, 1),
            person,
            rules.ratio,
            rules.person_bonus,
            rules.min_visible_person,
        )
        seen = None
        if cross and rules.reference_ratio:
            of_b = self._persons(batch, slice(targets, None))
            seen = masking.choose_reference(
                noise[:, targets], of_b, rules.reference_ratio, rules.reference_bonus
            )
        return a, b, keep, masked, person, seen

    def _persons(self, batch, which):
        """(R * images, N) share of each patch that lies on the person, of ``which`` of the K + 1
        images of each row."""
        numbers, grid = batch["numbers"][:, which], self.model.grid
        boxes, sizes = (
            numbers.flatten(0, 1),
            batch["tags"][:, TAGS.index("size")].repeat_interleave(numbers.shape[1]),
        )
        bits = batch["mask"].unflatten(1, (batch["numbers"].shape[1], -1))[:, which].flatten(0, 1)
        # Four mask pixels a patch's side are enough to tell how much of it is person.
        return masking.person_share(crop_masks(bits, boxes, sizes, 4 * grid[0]), grid)

    def complete(self, a, b, keep, masked, seen=None):
        """(B, M, P*P*3) float32 prediction for the masked patches."""
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.complete(a, b, keep, masked, seen).float()

    def forward(self, batch):
        """(B,) loss of each target."""
        a, b, keep, masked, person, seen = self.pairs(batch)
        if self.config.objective.references == "shuffled":
            b, seen = b.roll(1, 0), None if seen is None else seen.roll(1, 0)
        weight = objective.patch_weight(person, self.config.objective.background_weight)
        return self.losses(a, b, keep, masked, seen, [weight])[0]

    def losses(self, a, b, keep, masked, seen, weights):
        """[(B,) loss of each sample, ...] under each of several weights of patches, (B, N)."""
        predicted = self.complete(a, b, keep, masked, seen)
        target = objective.targets(a, self.config.model.patch, self.config.objective.target, masked)
        return [
            objective.per_sample_loss(predicted, target, weight.gather(1, masked))
            for weight in weights
        ]


class Pretrainer(Trainer):
    """What pre-training adds to a run: pairs in, completions out.

    Args:
        config: PretrainConfig.  processes: engine.distributed.process_group.Processes.
    """

    room = "pretrain"

    def __init__(self, config, processes):
        order = processes.from_first(lambda: open_order(config.data, config.batch, config.seed))
        model, before = build(config)
        model = model.to(processes.device)
        prepare([*model.encoder.blocks, *model.decoder.blocks], config, processes.device)
        bf16 = hardware.bf16(config.precision, processes.device)
        super().__init__(
            config,
            processes,
            model,
            Completion(model, config, bf16),
            2 * len(PAIR_KINDS) * len(order.sources),
            REPLACED,
            entries=("complete", "encode", "features"),
            bf16=bf16,
        )
        self.order, self.bf16 = order, bf16
        self.excluded = processes.from_first(lambda: count_excluded(order, config.data))
        self.bad_list, self.bad_rate, self.bad_total = None, BadRate(config.data.bad_max), (0, 0)
        skip = bad_shards(config.run, order)
        self.loader = open_loader(
            order,
            config.data,
            model.patches,
            processes.rank,
            processes.world,
            process_group.loader_workers(config.data.workers),
            skip,
            config.targets_per_reference,
            config.model.decoder.cross,
        )
        self.to_device = ToDevice(self.loader, self.device)
        self.val = val_pairs(order, config.data, model.patches, config.log.val_pairs, skip)
        if self.val is not None:
            self.people = people_at(order, config.data, self.val["tags"][:, PLACE])
            self.strangers = reference_gain.strangers(
                self.val["tags"], [subject for _, subject in self.people]
            )
            if not config.model.decoder.cross:
                self.strangers[:] = -1  # no reference, no gain of one
        self.seen = before.union(seen_by(order, self.people if self.val is not None else []))
        self.probe_every, self.prober = config.log.probe_every, None
        if config.log.probe_every:
            self.prober = probe.Prober(config, order, processes)
            self.prober.refuse_seen(self.seen)
        self.weighting = [
            torch.tensor(values, dtype=torch.float32, device=self.device)
            for values in (config.objective.kind_weights(), order.shares)
        ]

    def loss(self, piece):
        """(loss, sum and count of the losses of each source and kind) of a part of this rank's
        rows."""
        losses, tags = (
            self.wrapped(piece),
            piece["tags"].repeat_interleave(self.config.targets_per_reference, 0),
        )
        kind = tags[:, KIND].long()
        loss = objective.combine(losses, kind, *self.weighting, self.config.samples)
        group = tags[:, SOURCE].long() * len(PAIR_KINDS) + kind
        return loss, grouped(
            losses.detach().double(), group, len(self.order.sources) * len(PAIR_KINDS)
        )

    def losses(self, sums):
        """{"loss/KIND"} and, of several sources, {"loss_by_source/SOURCE/KIND"}, from what ``loss``
        summed."""
        sums, sources = (
            np.reshape(sums, (-1, len(PAIR_KINDS), 2)),
            [source.name for source in self.order.sources],
        )
        named = [("loss/", sums.sum(0))]
        named += (
            [(f"loss_by_source/{name}/", one) for name, one in zip(sources, sums, strict=True)]
            if len(sums) > 1
            else []
        )
        return {
            prefix + kind: total / count
            for prefix, one in named
            for kind, (total, count) in zip(PAIR_KINDS, one.tolist(), strict=True)
            if count
        }

    def evaluate(self):
        return reference_gain.evaluate(self)

    def draw(self, folder, step):
        return run_reporting.sendable(self, panels.save(self, folder, step))

    def probe(self):
        return self.prober.measure(self)

    def per_sample(self, batch):
        """(R,) losses of the rows of a batch of tensors: means over the targets of each."""
        return self.step_module(batch).view(len(batch["tags"]), -1).mean(1)

    def portray(self, arrays, labels, title):
        """A PIL image of the loader's pairs, a row each; of several targets the first."""
        arrays = first_target(arrays, self.config.targets_per_reference)
        return panels.sheet(panels.completed(self, arrays), labels, title)

    def load(self, path):
        """As Trainer's; with what the checkpoint says that it and what it began from saw."""
        self.seen = self.seen.union(header.read_seen(path))
        if self.prober:
            self.prober.refuse_seen(self.seen)
        return super().load(path)

    def save(self, run, step, last):
        super().save(run, step, last, header.make_header(self.model.config, self.seen))

    def open_run(self):
        return run_reporting.open_run(self, "pretrain")

    def announce(self, start):
        run_reporting.announce(self.config, self, start)
        run_reporting.list_people(self)
        if self.prober:
            self.prober.refuse_people(self.seen.people)

    def measured(self, step, pairs, seconds):
        visible, seen = self.config.masking.seen(self.model.patches)
        # Backward costs twice what forward does.
        each = 3 * flops(self.config.model, visible, self.config.targets_per_reference, seen)
        return run_reporting.measured(self, step, pairs, seconds, "pairs", each)

    def note_bad(self):
        run_reporting.note_bad(self)

    def list_bad(self, folder, slot):
        run_reporting.list_bad(self, folder, slot)


def first_target(arrays, targets):
    """Arrays of data.loading.reader.layout with the first of their targets alone."""
    rows, chosen = len(arrays["tags"]), [0, targets]
    flat = {
        name: arrays[name].reshape(rows, targets + 1, -1)[:, chosen].reshape(rows, -1)
        for name in ("mask", "noise")
    }
    return {**arrays, **flat, **{name: arrays[name][:, chosen] for name in ("pixels", "numbers")}}


def grouped(values, group, groups):
    """(2 * groups,) sum and count of the values (B,) of each group; ``group``: (B,) long."""
    chosen = group[None] == torch.arange(groups, device=group.device)[:, None]
    return torch.stack([(values * chosen).sum(1), chosen.double().sum(1)], 1).flatten()


def build(config):
    """(network, Seen) of a config: from ``init`` if it is set, with what that saw; else from the
    seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CrossCompletion(config.model)
    # A run that goes on has weights of its own, and needs its beginnings no more.
    # The marker tells: the first process alone reads the files through, when it opens the run.
    if config.init and not history.list_complete(config.run):
        return model, weights.init_from(model, config.init)
    return model, Seen()


def train(config):
    """Train to ``config.steps``; returns the exit code."""
    return loop.train(config, Pretrainer)
