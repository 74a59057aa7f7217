"""Which whole frame fills which slot: all slots of a batch are of one aspect.

Each aspect that has frames has an Order of its own, over those frames of each source; which aspect
a batch is of follows from its number alone, each in proportion to its frames. So it stays
arithmetic on (seed, slot): resuming is starting at a later slot.
"""

from collections.abc import Sequence

import numpy as np

from data.format.frame import ASPECTS
from data.format.index import FIRST_FRAME, Index
from data.sampling.left_out import LeftOut
from data.sampling.manifest import SourceManifest
from data.sampling.order import PAIR, Draw, Order, default_lanes, numbers, quotas, spread
from engine.errors import UserError

STEPS = 256  # batches after which the aspects come again in the same turn
ONE_KIND = (1.0, 0.0)  # frames make no pairs: all slots are of Order's first kind


class FrameOrder:
    """The arithmetic above; what a loader and a run's manifest ask of data.sampling.order.Order.

    Args:
        sources: SourceManifest of each source.  weights: of each, relative.
        indexes: {path: Index} of all their shards.
        seed, batch, lanes, pool_shards: as in Order; ``lanes`` None: as many as divide the batch.
        pair_share: share of slots 2k + 1 of a batch that another frame of slot 2k's scene fills,
            where there is one.
    Attributes:
        aspects: numbers of data.format.frame.ASPECTS that batches are of, in the turn in which
            they come, STEPS long.
        totals: frames of each source that are trained on.
        lane_length, slices: as of Order; all lanes of a source together count as one slice.
    Raises:
        UserError: a source has no frames.
    """

    def __init__(
        self,
        sources: list[SourceManifest],
        weights: Sequence[float],
        indexes: dict[str, Index],
        seed: int,
        batch: int,
        lanes: int | None,
        pool_shards: float,
        pair_share: float = 0.0,
    ) -> None:
        self.sources, self.seed, self.batch = sources, seed, batch
        self.pair_share = pair_share
        self.lanes = lanes or default_lanes(batch, ONE_KIND)
        self.totals = [0] * len(sources)
        shares = np.zeros(len(ASPECTS))
        held_scenes = _list_held_scenes(sources, indexes)
        places: list[dict[int, list[np.ndarray]]] = []
        for number, source in enumerate(sources):
            found = _sort_frames(source, indexes, held_scenes)
            totals = {a: sum(map(len, shards)) for a, shards in found.items()}
            self.totals[number] = sum(totals.values())
            if not self.totals[number]:
                raise UserError(
                    f"source '{source.name}': none of its shards holds whole frames to train on "
                    f"(docs/scenes.md), such as {source.paths[0]}"
                )
            for a, total in totals.items():
                shares[a] += weights[number] * total / self.totals[number]
            places.append(found)
        self._orders: dict[int, _AspectOrder] = {}
        for a in np.flatnonzero(shares).tolist():
            own = [(n, found[a]) for n, found in enumerate(places) if a in found]
            self._orders[a] = _AspectOrder(self, a, own, weights, pool_shards, indexes)
        self.slices = [1] * len(sources)
        self.lane_length = [0] * len(sources)
        for part in self._orders.values():
            for number, length in part.lengths.items():
                self.lane_length[number] += length
        counts = quotas(shares, STEPS)
        counts[(shares > 0) & (counts == 0)] = 1  # one that is rare is not left out
        self.aspects = spread(counts).tolist()
        self._before = {
            a: np.concatenate([[0], np.cumsum(np.equal(self.aspects, a))]).tolist()
            for a in self._orders
        }

    def aspect(self, step: int) -> int:
        """Which of ASPECTS, by number, the frames of a batch are of."""
        return self.aspects[step % len(self.aspects)]

    def list_frames(self, source: int, aspect: int) -> list[np.ndarray]:
        """(n,) int32 places in each shard of a source's frames of an aspect; [] of none."""
        part = self._orders.get(aspect)
        if part is None or source not in part.numbers:
            return []
        return part.frames[part.numbers.index(source)]

    def draw(self, n: int, attempt: int = 0) -> Draw:
        """The Draw of slot n, its ``kind`` the aspect; attempts are as Order's.

        A slot that a pair's other frame should fill and cannot has a frame of its own.
        """
        if not attempt and n % self.batch % 2 and self._is_paired(n // 2):
            first = self._draw_alone(n - 1, 0)
            other = self._orders[first.kind].find_sibling(first)
            if other is not None:
                return other
        return self._draw_alone(n, attempt)

    def _is_paired(self, pair: int) -> bool:
        share = self.pair_share
        return share > 0 and numbers(self.seed, PAIR, pair, 1).random() < share

    def _draw_alone(self, n: int, attempt: int) -> Draw:
        step, row = divmod(n, self.batch)
        aspect = self.aspect(step)
        turns, rest = divmod(step, len(self.aspects))
        before = self._before[aspect]
        batches = turns * before[-1] + before[rest]
        return self._orders[aspect].draw(batches * self.batch + row, attempt)

    def leave_out(self, left_out: Sequence[LeftOut]) -> None:
        """Note what is left out for validation's sake, as Order does: of frames nothing is.

        Scenes of validation frames are left out from the beginning.

        Raises:
            ValueError: something is.
        """
        for source, left in zip(self.sources, left_out, strict=True):
            if len(left.shards):
                raise ValueError(f"source '{source.name}': {len(left.shards)} clips among frames")
            source.left_out = left

    def epochs(self, n: int) -> dict[str, float]:
        """{source: how often its frames were gone through before slot n's batch}, over aspects."""
        step = n // self.batch
        turns, rest = divmod(step, len(self.aspects))
        seen = dict.fromkeys((source.name for source in self.sources), 0.0)
        for aspect, order in self._orders.items():
            before = self._before[aspect]
            slots = (turns * before[-1] + before[rest]) * self.batch
            for number, epochs in order.epochs(slots).items():
                share = order.totals[number] / self.totals[number]
                seen[self.sources[number].name] += epochs * share
        return seen


class _AspectOrder:
    """The frames of one aspect.

    Args:
        own: (source's number, its frames of each shard) of those that have any.
    Attributes:
        totals: {source's number: frames}.  lengths: {source's number: draws of an epoch}.
    """

    def __init__(
        self,
        whole: FrameOrder,
        aspect: int,
        own: list[tuple[int, list[np.ndarray]]],
        weights: Sequence[float],
        pool_shards: float,
        indexes: dict[str, Index],
    ) -> None:
        self.aspect, self.numbers = aspect, [number for number, _ in own]
        self.frames = [shards for _, shards in own]
        self._scenes = {}
        if whole.pair_share:
            for number, shards in own:
                paths = whole.sources[number].paths
                found = zip(paths, shards, strict=True)
                self._scenes[number] = [_take_scenes(indexes[path], at) for path, at in found]
        self.totals = {number: sum(map(len, shards)) for number, shards in own}
        parts, shares = [], []
        for number, shards in own:
            source = whole.sources[number]
            counts = np.array([len(shard) for shard in shards], np.int64)
            name = f"{source.name} {list(ASPECTS)[aspect]}"  # walks of other names differ
            parts.append(
                SourceManifest(name, source.paths, counts, [], source.digests, [0], source.size)
            )
            shares.append(weights[number] * counts.sum() / whole.totals[number])
        self.order = Order(
            parts, shares, ONE_KIND, whole.seed, whole.batch, whole.lanes, pool_shards
        )

        drawn = zip(self.order.lane_length, self.order.slices, strict=True)
        self.lengths = dict(zip(self.numbers, (a * b for a, b in drawn), strict=True))

    def draw(self, n: int, attempt: int) -> Draw:
        found = self.order.draw(n, attempt)
        index = int(self.frames[found.source][found.shard][found.index])
        return Draw(self.numbers[found.source], self.aspect, found.shard, index, found.epoch)

    def find_sibling(self, draw: Draw) -> Draw | None:
        """Return the draw of the next frame of a frame's scene, the first after the last one.

        None where the scene has no other that is trained on, or nobody knows the scene.
        """
        at = self.numbers.index(draw.source)
        frames = self.frames[at][draw.shard]
        scenes = self._scenes[draw.source][draw.shard]
        if scenes is None:
            return None
        place = int(np.searchsorted(frames, draw.index))
        mates = np.flatnonzero(scenes == scenes[place])
        if len(mates) < 2 or not scenes[place]:
            return None
        after = mates[(int(np.searchsorted(mates, place)) + 1) % len(mates)]
        return Draw(draw.source, self.aspect, draw.shard, int(frames[after]), draw.epoch)

    def epochs(self, n: int) -> dict[int, float]:
        """{source's number: how often its frames of this aspect were gone through}."""
        return dict(zip(self.numbers, self.order.epochs(n).values(), strict=True))


def _take_scenes(index: Index, frames: np.ndarray) -> np.ndarray | None:
    """(n,) uint64 marks of the scenes of some frames of a shard; None: nobody knows."""
    return None if index.people is None else index.people[frames]


def _list_held_scenes(sources: list[SourceManifest], indexes: dict[str, Index]) -> np.ndarray:
    """(n,) uint64 marks of the scenes of validation frames; none of theirs is trained on."""
    held = []
    for source in sources:
        for shard, index in source.val:
            people = indexes[source.paths[shard]].people
            if people is not None:
                held.append(int(people[index]))
    return np.unique(np.array(held, np.uint64))


def _sort_frames(
    source: SourceManifest, indexes: dict[str, Index], held_scenes: np.ndarray
) -> dict[int, list[np.ndarray]]:
    """{aspect: (n,) int32 places in each shard} of a source's frames that are trained on."""
    found: dict[int, list[np.ndarray]] = {a: [] for a in range(len(ASPECTS))}
    for path, count in zip(source.paths, source.counts.tolist(), strict=True):
        index = indexes[path]
        kept = np.ones(count, bool)
        if index.people is not None and len(held_scenes):
            kept = ~np.isin(index.people[:count], held_scenes)
        for a, shards in found.items():
            bit = np.asarray(index.offers[:count]) >> (FIRST_FRAME + a) & 1
            shards.append(np.flatnonzero((bit > 0) & kept).astype(np.int32))
    return {a: shards for a, shards in found.items() if any(map(len, shards))}
