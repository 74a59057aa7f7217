"""What an operator reads: the folder's papers, the lines before the first step, the numbers beside
the losses."""

import torch

from data.format.clip import MADE
from data.format.index import PAIR_KINDS
from data.loading.quarantine import BadList, worst
from data.sampling import subjects
from data.sampling.manifest import freeze
from data.sampling.subjects import describe_excluded
from data.storage.shard_store import Store
from engine.config.train_config import FREE
from engine.distributed.hardware import memory_gib, peak_flops
from engine.errors import Failure
from engine.run.folder import Run
from engine.training.trainer import learning_rate


def open_run(trainer, command):
    """(Run, None) of a trainer's folder with the manifest frozen in it, or (None, the error).

    The error is handed back, not raised, because only rank 0 opens the folder and all ranks must
    stop.
    """
    run = None
    try:
        run = Run(trainer.config.run, trainer.config, command, FREE, trainer.device.type)
        freeze(trainer.order, run.folder / "manifest.json")
    except Failure as error:
        if run:
            run.close()
        return None, error
    return run, None


def list_people(trainer):
    """Enter the people of a run's clips into its record of what training saw; those of a checkpoint
    are known already."""
    store = Store(trainer.config.data.cache.open())
    trainer.seen = trainer.seen.union(
        subjects.list_people(trainer.order.sources, trainer.seen, store)
    )


def announce(config, trainer, start):
    """Print what is derived from the config, once, before the first step."""
    order, model = trainer.order, trainer.model
    encoder = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    whole = sum(p.numel() for p in model.parameters()) / 1e6
    visible, seen = config.masking.seen(model.patches)
    if start == config.steps:
        print(f"run {config.run} is complete at step {start}; a new run=DIR starts another")
        return
    print(
        f"run {config.run}: "
        + (f"goes on at step {start}" if start else "starts")
        + f", to step {config.steps} "
        f"({config.steps * config.samples} pairs) on {trainer.processes.world} x "
        f"{trainer.device.type}, "
        f"{'bf16' if trainer.bf16 else 'float32'}"
    )
    print(
        f"model: encoder {encoder:.1f} M parameters, with decoder {whole:.1f} M; {model.patches} "
        f"patches, "
        f"{model.patches - visible} masked"
        + (f", {seen} of the reference looked at" if seen < model.patches else "")
    )
    quota = ", ".join(f"{q} {kind}" for q, kind in zip(order.quota, PAIR_KINDS, strict=True))
    more = (
        f", {config.targets_per_reference} targets each" if config.targets_per_reference > 1 else ""
    )
    announce_data(config, order, trainer.excluded, f"batch {config.batch}: {quota}{more}")
    if trainer.val is None:
        print(
            "note: nothing is held out (data.val_clips=0 or fewer than 10 clips): no held-out loss "
            "and no images"
        )
    elif not config.model.decoder.cross:
        print("note: model.decoder.cross=false: a masked autoencoder; references are not read")
    elif (trainer.strangers < 0).all():
        print(
            "note: the held-out pairs of each source are of one person, so no reference can be "
            "swapped: no reference gain"
        )
    if trainer.prober:
        print(
            f"3D probe every {config.log.probe_every} steps: {len(trainer.prober.split.places)} "
            f"{trainer.prober.crops} crops "
            f"of {config.probe.clips} clips of {config.probe.shards}"
        )


def announce_data(config, order, excluded, batch):
    """Print what a run reads and how often.

    Args:
        excluded: {subject: clips}, as of data.loading.build.count_excluded.  batch: the batch in
            words.
    """
    for source, total, length, slices in zip(
        order.sources, order.totals, order.lane_length, order.slices, strict=True
    ):
        print(
            f"source {source.name}: {total} clips in {len(source.paths)} shards, "
            f"{len(source.val)} held out; "
            f"{order.lanes} lanes read {slices} slices; an epoch repeats {length * slices - total} "
            f"to make them equal"
        )
    if excluded:
        print(describe_excluded(excluded, config.data.exclude))
    ends = ", ".join(
        f"{name} {value:.1f}" for name, value in order.epochs(config.steps * config.batch).items()
    )
    print(f"{batch}; epochs by the end: {ends}")
    print(
        f"learning rate: peak {config.peak_lr:.3g} ({config.optim.lr:g} for 256), warm-up "
        f"{config.optim.warmup} steps"
    )


def measured(trainer, step, samples, seconds, unit, flops=None):
    """The numbers beside the losses, of all ranks where the docs say no other.

    Args:
        step: the last one taken.  samples, seconds: since the last line.  unit: "pairs" or "crops".
        flops: operations of a sample, forward and backward; None: not known, and no share of the
            peak is given.
    """
    slots, world, rate = (
        (step + 1) * trainer.config.batch,
        trainer.processes.world,
        samples / seconds,
    )
    bad, no_pair = trainer.processes.sum(trainer.replaced.clone()).tolist()
    out = {
        "optim/lr": learning_rate(trainer.config, step),
        "optim/param_norm": param_norm(trainer.names),
        f"speed/{unit}_per_s": rate,
        f"speed/{unit}_per_s_device": rate / world,
        "speed/data_wait_share": trainer.loader.take_waited() / seconds,
        "data/bad_samples": bad,
        "data/no_pair": no_pair,
        unit: (step + 1) * trainer.config.samples,
    } | memory_gib(trainer.device)
    trainer.bad_total = slots, bad
    # A share of a peak that is not known, or that float32 cannot reach, would be a made-up number.
    peak = (
        peak_flops(torch.cuda.get_device_name(trainer.device))
        if trainer.device.type == "cuda"
        else None
    )
    if peak and flops and trainer.bf16:
        out["speed/mfu"] = flops * rate / world / peak
    return out | {
        f"data/epochs/{name}": value for name, value in trainer.order.epochs(slots).items()
    }


def param_norm(parameters):
    """Length of all weights as one vector. Waits for the device: for logged lines alone."""
    norm = torch.nn.utils.get_total_norm([p.detach() for p in parameters])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def sendable(trainer, images):
    """{key: path} of the images that may leave this machine: with log.faces=false, only those of
    made people.

    Images are made of the run's held-out samples, so it is their clips' sources that count.
    """
    made = all(source == MADE for source, _ in trainer.people)
    return images if trainer.config.log.faces or made else {}


def note_bad(trainer):
    """List samples with bad bytes, of all ranks, in the run's folder; UserError on all where they
    are too many."""
    bad = trainer.processes.gather(trainer.loader.take_bad())
    if trainer.bad_list:
        trainer.bad_list.add(bad)
    trainer.bad_rate.check(*trainer.bad_total, lambda: worst(trainer.config.run))


def list_bad(trainer, folder, slot):
    """Go on with the run's list of bad samples from a slot."""
    trainer.bad_list = BadList(folder, slot)
