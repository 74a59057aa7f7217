"""What an operator reads: the folder's papers, the lines before the first step, the numbers beside the losses."""

from data.bad import BadList, worst
from data.index import PAIR_KINDS
from data.manifest import freeze
from engine.errors import UserError
from engine.options import FREE
from engine.run import Run
from engine.trainer import learning_rate


def open_run(config, order, command):
    """(Run, None) of this config's folder with the manifest frozen in it, or (None, the error).

    The error is handed back, not raised, because only rank 0 opens the folder and all ranks must stop.
    """
    run = None
    try:
        run = Run(config.run, config, command, FREE)
        freeze(order, run.folder / "manifest.json")
    except UserError as error:
        if run:
            run.close()
        return None, error
    return run, None


def announce(config, trainer, start):
    """Print what is derived from the config, once, before the first step."""
    order, model = trainer.order, trainer.model
    encoder = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    whole = sum(p.numel() for p in model.parameters()) / 1e6
    if start == config.steps:
        print(f"run {config.run} is complete at step {start}; a new run=DIR starts another")
        return
    print(f"run {config.run}: " + (f"goes on at step {start}" if start else "starts") + f", to step {config.steps} "
          f"({config.steps * config.batch} pairs) on {trainer.processes.world} x {trainer.device.type}, "
          f"{'bf16' if trainer.bf16 else 'float32'}")
    print(f"model: encoder {encoder:.1f} M parameters, with decoder {whole:.1f} M; {model.patches} patches, "
          f"{int(config.masking.ratio * model.patches)} masked")
    quota = ", ".join(f"{q} {kind}" for q, kind in zip(order.quota, PAIR_KINDS, strict=True))
    announce_data(config, order, f"batch {config.batch}: {quota}")
    if trainer.held_out is None:
        print("note: nothing is held out (data.held_out=0 or fewer than 10 clips): no held-out loss and no pictures")


def announce_data(config, order, batch):
    """Print what a run reads and how often; ``batch``: the batch in words."""
    for source, total, length, slices in zip(order.sources, order.totals, order.lane_length, order.slices, strict=True):
        print(f"source {source.name}: {total} clips in {len(source.paths)} shards, {len(source.held_out)} held out; "
              f"{order.lanes} lanes read {slices} slices; an epoch repeats {length * slices - total} to make them equal")
    if config.data.exclude:
        print(f"excluded: {len(config.data.excluded())} subjects of {config.data.exclude}")
    ends = ", ".join(f"{name} {value:.1f}" for name, value in order.epochs(config.steps * config.batch).items())
    print(f"{batch}; epochs by the end: {ends}")
    print(f"learning rate: peak {config.peak_lr:.3g} ({config.optim.lr:g} for 256), warm-up {config.optim.warmup} steps")


def measured(trainer, step, samples, seconds, unit):
    """The numbers beside the losses: learning rate, speed, waiting for data, replaced samples of all ranks, epochs."""
    slots = (step + 1) * trainer.config.batch
    bad, no_pair = trainer.processes.sum(trainer.replaced.clone()).tolist()
    out = {"optim/lr": learning_rate(trainer.config, step), f"speed/{unit}_per_s": samples / seconds,
           "speed/data_wait_share": trainer.loader.take_waited() / seconds, "data/bad_samples": bad,
           "data/no_pair": no_pair, unit: slots}
    trainer.bad_total = slots, bad
    return out | {f"data/epochs/{name}": value for name, value in trainer.order.epochs(slots).items()}


def note_bad(trainer):
    """List samples with bad bytes, of all ranks, in the run's folder; UserError on all where they are too many."""
    bad = trainer.processes.gather(trainer.loader.take_bad())
    if trainer.bad_list:
        trainer.bad_list.add(bad)
    trainer.bad_rate.check(*trainer.bad_total, lambda: worst(trainer.config.run))


def list_bad(trainer, folder, slot):
    """Go on with the run's list of bad samples from a slot."""
    trainer.bad_list = BadList(folder, slot)
