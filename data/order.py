"""Which sample fills which slot of a run: arithmetic on (seed, slot), the mix and the manifest, and on nothing else.

Slot n is row j = n % B of batch t = n // B. w = B / L neighbouring rows make a *lane*, and a lane reads its own slice of
every epoch, so a rank that owns some rows reads its own shards. All is in closed form:

- Kinds: row j has kind K[j % q], where K of length q spreads the quotas B * share, cut by their common factor, evenly. q
  divides w, so every batch, every lane and nearly every stretch holds its quotas.
- Sources: the g-th slot of a kind, counted from the start of the run, has source S[g % P], where S spreads the weights
  evenly over a prime period P. P is prime so that a lane, whose window on S moves by B_k a batch, meets all of S equally.
- Samples: a lane's draws of a source are counted (its count before batch t has period P in t, so a table of P entries
  gives it), and the count is split into epoch, pool and place.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from data.index import PAIR_KINDS
from engine.errors import UserError

PERIODS = (1009, 1013)  # primes: the resolution of the mix's weights
# Purposes of random numbers: the second half of Philox's key, so that no two uses share a stream.
SHARDS, POOL, REPLACE, PAIR, CROP, COLOUR, MASK, PHASE = range(8)


def numbers(seed, purpose, n, attempt=0):
    """A generator whose numbers depend on these four integers alone (Philox; Salmon et al., SC 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, n, attempt, 0]))


@dataclass
class Draw:
    """What fills a slot: places in the manifest's lists, the pair kind, and how often the source was gone through."""

    source: int
    kind: int
    shard: int
    index: int
    epoch: int


def default_lanes(batch, shares):
    """The most lanes, up to 256, that divide the batch and leave every lane whole quotas of kinds."""
    pattern = len(kind_pattern(batch, shares))
    return max(d for d in range(1, min(batch, 256) + 1) if batch % (d * pattern) == 0)


def kind_pattern(batch, shares):
    """(q,) index into PAIR_KINDS of rows 0 .. q-1, repeated down the batch.

    Raises:
        UserError: the batch does not hold whole numbers of each kind.
    """
    share = np.asarray(shares, float) / sum(shares)
    quota = share * batch
    if np.abs(quota - np.round(quota)).max() > 1e-6:
        raise UserError(f"batch={batch} does not divide by the shares of kinds {np.round(share, 4).tolist()}: "
                        f"a batch would hold {np.round(quota, 3).tolist()} pairs of each; change batch or data.kinds")
    quota = np.round(quota).astype(int)
    return spread(quota // math.gcd(*quota.tolist()))


def quotas(shares, total):
    """Whole numbers near shares * total that add up to total (largest remainders)."""
    exact = np.asarray(shares, float) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def spread(counts):
    """Entry numbers, count[i] times i, spread as evenly as they go (smooth weighted round robin)."""
    weight, credit, out = np.asarray(counts, float), np.zeros(len(counts)), []
    for _ in range(int(sum(counts))):
        credit += weight
        chosen = int(np.argmax(credit))
        credit[chosen] -= weight.sum()
        out.append(chosen)
    return np.array(out, np.int64)


class Order:
    """The arithmetic above.

    Args:
        sources: SourceManifest of each source.  weights: of each, relative, among those that offer a kind.
        shares: of each of PAIR_KINDS in a batch; 0 leaves a kind out.
        seed, batch, lanes: batch is the global one; lanes divides it.
        pool_shards: samples are shuffled in pools of about so many shards' size.
    Raises:
        UserError: quotas that are not whole, lanes that do not divide the batch, a kind that no source offers.
    """

    def __init__(self, sources, weights, shares, seed, batch, lanes, pool_shards):
        self.sources, self.seed, self.batch, self.lanes = sources, seed, batch, lanes
        self.shares = np.asarray(shares, float) / sum(shares)
        self.kinds = kind_pattern(batch, shares)
        if batch % (lanes * len(self.kinds)):
            fit = default_lanes(batch, shares)
            raise UserError(f"data.lanes={lanes} does not divide batch={batch} into lanes with whole quotas of kinds (rows "
                            f"come in groups of {len(self.kinds)}); data.lanes={fit} does")
        self.rows = batch // lanes
        ones = (self.kinds[None] == np.arange(len(PAIR_KINDS))[:, None]).astype(np.int64)
        self.kind_before = np.concatenate([np.zeros((len(ones), 1), np.int64), np.cumsum(ones, 1)], 1)
        self.quota = [self._of_kind(k, batch) for k in range(len(PAIR_KINDS))]
        self.period = next(p for p in PERIODS if all(q == 0 or q % p for q in self.quota))
        self._mix(weights)
        self.totals = [int(s.counts.sum()) for s in sources]
        self.lane_length = [max(1, math.ceil(n / lanes)) for n in self.totals]
        self.pool = [max(1, round(pool_shards * n / max(1, np.count_nonzero(s.counts))))
                     for s, n in zip(sources, self.totals, strict=True)]
        self._cache = OrderedDict()
        self._lane_tables = {}

    def _of_kind(self, k, rows):
        """How many of the first ``rows`` rows of a batch have kind k."""
        groups, rest = divmod(rows, len(self.kinds))
        return int(groups * self.kind_before[k, -1] + self.kind_before[k, rest])

    def _mix(self, weights):
        """Per kind: the source of each place of the period, and how often each source came before it."""
        self.mix, self.mix_before = [], []
        for k, quota in enumerate(self.quota):
            offering = [w if k in s.offers else 0.0 for s, w in zip(self.sources, weights, strict=True)]
            if quota and not sum(offering):
                names = ", ".join(s.name for s in self.sources)
                raise UserError(f"no clip of {names} has a {PAIR_KINDS[k]} pair, but data.kinds asks for them: "
                                f"set data.kinds.{PAIR_KINDS[k]}=0 or add a source")
            pattern = spread(quotas(offering, self.period)) if quota else np.zeros(self.period, np.int64)
            for s, (source, weight) in enumerate(zip(self.sources, offering, strict=True)):
                if quota and weight and s not in pattern:
                    raise UserError(f"data.sources.{source.name}.weight={weight} is less than 1/{self.period} of the mix of "
                                    f"{PAIR_KINDS[k]} pairs: it would never be read")
            ones = (pattern[None] == np.arange(len(self.sources))[:, None]).astype(np.int64)
            self.mix.append(pattern)
            self.mix_before.append(np.concatenate([np.zeros((len(ones), 1), np.int64), np.cumsum(ones, 1)], 1))

    def _of_source(self, k, source, g):
        """How many of the first g slots of kind k have that source; g may be an array."""
        turns, rest = np.divmod(g, self.period)
        before = self.mix_before[k][source]
        return turns * before[-1] + before[rest]

    def _lane_before(self, k, source, lane, t):
        """How many slots of that kind and source a lane had before batch t."""
        if (k, source, lane) not in self._lane_tables:
            first = np.arange(self.period) * self.quota[k] + self._of_kind(k, lane * self.rows)
            drawn = (self._of_source(k, source, first + self._of_kind(k, self.rows)) - self._of_source(k, source, first))
            self._lane_tables[k, source, lane] = np.concatenate([[0], np.cumsum(drawn)]).astype(np.int32)
        table = self._lane_tables[k, source, lane]
        turns, rest = divmod(t, self.period)
        return int(turns * table[-1] + table[rest])

    def kind(self, n):
        """Index into PAIR_KINDS of slot n."""
        return int(self.kinds[n % self.batch % len(self.kinds)])

    def draw(self, n, attempt=0):
        """The Draw of slot n; attempt 1, 2, ... are what replaces samples whose bytes are bad."""
        t, j = divmod(n, self.batch)
        kind, lane = self.kind(n), j // self.rows
        source = int(self.mix[kind][(t * self.quota[kind] + self._of_kind(kind, j)) % self.period])
        if attempt:
            place = int(numbers(self.seed, REPLACE, n, attempt).integers(self.totals[source]))
            ends = np.cumsum(self.sources[source].counts)
            shard = int(np.searchsorted(ends, place, "right"))
            return Draw(source, kind, shard, place - int(ends[shard] - self.sources[source].counts[shard]), -1)
        drawn = 0
        for k, quota in enumerate(self.quota):
            if quota:
                start, here = (t * quota + self._of_kind(k, row) for row in (lane * self.rows, j))
                drawn += self._lane_before(k, source, lane, t)
                drawn += int(self._of_source(k, source, here) - self._of_source(k, source, start))
        epoch, place = divmod(drawn, self.lane_length[source])
        return Draw(source, kind, *self._locate(source, epoch, lane, place), epoch)

    def epochs(self, n):
        """{source name: how often it was gone through before slot n's batch}, read off lane 0."""
        t = n // self.batch
        return {source.name: sum(self._lane_before(k, s, 0, t) for k, quota in enumerate(self.quota) if quota)
                / self.lane_length[s] for s, source in enumerate(self.sources)}

    def _locate(self, source, epoch, lane, place):
        """(shard, index in it) of a place in a lane's slice of an epoch."""
        pool, inside = divmod(place, self.pool[source])
        length = min(self.pool[source], self.lane_length[source] - pool * self.pool[source])
        shuffled = self._cached(("pool", source, epoch, lane, pool), lambda: self._rng(
            POOL, source, epoch, lane * 2**20 + pool).permutation(length))
        total = self.totals[source]
        shards, ends, turn = self._cached(("epoch", source, epoch), lambda: self._epoch(source, epoch))
        # The turn moves the slices' borders from epoch to epoch; the last lane wraps by less than one sample a lane.
        position = (lane * self.lane_length[source] + pool * self.pool[source] + int(shuffled[inside]) + turn) % total
        at = int(np.searchsorted(ends, position, "right"))
        shard = int(shards[at])
        return shard, position - int(ends[at] - self.sources[source].counts[shard])

    def _epoch(self, source, epoch):
        shards = self._rng(SHARDS, source, epoch, 0).permutation(len(self.sources[source].counts))
        turn = int(self._rng(PHASE, source, epoch, 0).integers(self.totals[source]))
        return shards, np.cumsum(self.sources[source].counts[shards]), turn

    def _rng(self, purpose, source, epoch, which):
        name = int.from_bytes(hashlib.blake2b(self.sources[source].name.encode(), digest_size=4).digest(), "little")
        return numbers(self.seed, purpose, epoch * 2**32 + name, which)

    def _cached(self, key, make):
        if key not in self._cache:
            self._cache[key] = make()
            # Rows are read in order, so a lane needs its present pool and the next; the rest is long past.
            while len(self._cache) > 4 * self.lanes + 64:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]
