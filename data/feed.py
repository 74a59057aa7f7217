"""From the ``data.`` keys to batches: manifest, order, loader and the fixed held-out pairs of a run."""

import json
import os
from pathlib import Path

import numpy as np

from data.loader import Loader
from data.order import MASK, PAIR, Draw, Order, default_lanes, numbers, read_manifest
from data.pairs import offer_bits
from data.reader import BadSample, NoPair, Reader, layout
from data.shards import PAIR_KINDS, explain, refuse_twice
from engine.errors import UserError

HELD_OUT_SEED = 0


def open_order(config, batch, seed):
    """The Order of a run.

    Args:
        config: data.config.DataConfig.  batch: pairs in a global batch.
    Raises:
        UserError: shards that are missing or damaged, sources without the wanted pairs, numbers that do not divide.
    """
    named = config.named()
    bits = offer_bits(config.pairs)
    sources = [read_manifest(name, source.shards, config.held_out, bits) for name, source in named.items()]
    refuse_twice([path for source in sources for path in source.paths])
    for source in sources:
        if not source.offers:
            raise UserError(f"source '{source.name}': no clip has a pair of crops with data.pairs.crops={config.pairs.crops}")
    weights = [source.weight for source in named.values()]
    shares = config.kinds.shares()
    return Order(sources, weights, shares, seed, batch, config.lanes or default_lanes(batch, shares), config.pool_shards)


def freeze(order, path):
    """Write the manifest into the run's folder, or compare it with what is there.

    Raises:
        UserError: the shards are not those the run began with.
    """
    now = {source.name: source.record() for source in order.sources}
    path = Path(path)
    if not path.exists():
        temporary = path.with_suffix(".writing")
        try:
            temporary.write_text(json.dumps({"format": 1, "lanes": order.lanes, "sources": now}))
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {explain(error)}") from None
        return
    then = json.loads(path.read_text())["sources"]
    for name in then.keys() | now.keys():
        if then.get(name) != now.get(name):
            raise UserError(f"the shards are not those the run began with: {_difference(name, then.get(name), now.get(name))}; "
                            f"give back the old ones or start a new run ({path} lists them)")


def _difference(name, then, now):
    if then is None or now is None:
        return f"source '{name}' is {'new' if then is None else 'gone'}"
    old, new = dict(zip(then["shards"], then["digests"], strict=True)), dict(zip(now["shards"], now["digests"], strict=True))
    changed = [s for s in sorted(old.keys() | new.keys()) if old.get(s) != new.get(s)]
    if changed:
        state = "missing" if changed[0] not in new else "new" if changed[0] not in old else "of other contents"
        return f"source '{name}' had {len(old)} shards and has {len(new)}; {changed[0]} is {state}"
    return f"source '{name}' held out {then['held_out']} clips and now {now['held_out']} (data.held_out)"


def open_loader(order, config, noise, rank, world, workers):
    """The Loader of one rank. ``noise``: uniform numbers a slot gets for its masking."""
    if order.batch % world:
        raise UserError(f"batch={order.batch} does not divide by {world} processes")
    share = order.batch // world
    side = max(source.size for source in order.sources)
    return Loader(order, config, side, noise, range(rank * share, (rank + 1) * share), workers)


def held_out_pairs(order, config, noise, count):
    """Fixed pairs that are never trained on, cut from the middle, without colour jitter.

    Args:
        count: pairs a kind, at most.
    Returns:
        {name: array} as data.reader.layout has them, kinds one after the other, or None where nothing is held out. Their
        choice depends on the shards and the rules alone, not on the run's seed.
    """
    reader = Reader(order, config.pairs, config.augment, 0)
    count = min(count, sum(len(source.held_out) for source in order.sources))
    side = max(source.size for source in order.sources)
    arrays = {name: np.zeros(*spec) for name, spec in layout(count * len(PAIR_KINDS), side, noise).items()}
    row = 0
    for kind, share in enumerate(order.shares):
        row = _held_out_kind(reader, order, config, kind, arrays, row, count) if share else row
    return {name: values[:row] for name, values in arrays.items()} if row else None


def _held_out_kind(reader, order, config, kind, arrays, row, count):
    places = [(s, *place) for s, source in enumerate(order.sources) for place in source.held_out]
    end = row + count
    for number in numbers(HELD_OUT_SEED, PAIR, kind).permutation(len(places)):
        if row == end:
            break
        source, shard, index = places[number]
        path = order.sources[source].paths[shard]
        try:
            size, a, b = reader.place(arrays, row, path, Draw(source, kind, shard, index, 0),
                                      numbers(HELD_OUT_SEED, PAIR, int(number), 1))
        except (BadSample, NoPair):
            continue  # the loader counts and lists bad samples; here another clip does as well
        cut = round(size * (config.augment.crop_min + config.augment.crop_max) / 2)
        arrays["numbers"][row] = [size // 2, size // 2, cut, 1, 1, 1]
        arrays["noise"][row] = numbers(HELD_OUT_SEED, MASK, int(number)).random(arrays["noise"].shape[1], np.float32)
        arrays["tags"][row] = kind, source, 0, 0, 0, shard, index, a, b, size
        row += 1
    return row
