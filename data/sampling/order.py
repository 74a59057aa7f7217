"""Which sample fills which slot of a run.

Arithmetic on (seed, slot), the mix and the manifest, and on nothing else.

Slot n is row j = n % B of batch t = n // B. w = B / L neighbouring rows make a *lane*, and a lane
reads its own slice of every epoch, so a rank that owns some rows reads its own shards. All is in
closed form:

- Kinds: slot n has kind K[n % q], where K of length q spreads the quotas B * share, cut by their
common factor, evenly. q
  divides w, so every batch, every lane and nearly every stretch holds its quotas.
- Sources: slot n has source S[n % (P q)]. S is laid out once (see ``lay_out``), so that every
source comes evenly among all
  slots and among those of each kind. The blocks of q slots that a lane fills move by B / q a batch;
  P is a prime that does not divide it, so each lane meets all of S equally.
- Samples: a slice's draws of a source are counted. How many a lane has filled before batch t is a
sum over every (B / q)-th
  block modulo P, so it has period P in t, and another lane's is the same sum with another start:
  one table of P entries gives all. The count is split into epoch, pool and place.
- A source too small for a slice a lane (under one shard's size, or under SLICE clips) is cut into
fewer slices, each read by
  some neighbouring lanes in turn: else its clips would hardly be shuffled, and some lanes would run
  epochs ahead of others.
"""

import hashlib
import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from data.format.index import PAIR_KINDS
from engine.errors import UserError

if TYPE_CHECKING:
    from data.sampling.left_out import LeftOut
    from data.sampling.manifest import SourceManifest

# of the arithmetic below, frozen into a run's folder: goes up when the same seed would give another
# stream
ORDER = 2
# The least length of the pattern of sources, and of each kind in it, for the weights are rounded to
# it; and the most length.
SLOTS, PLACES, MOST_SLOTS = 4001, 1009, 2**18
# clips, at least: slices get up to some hundred draws apart (docs/log.md), which is to be less than
# an epoch
SLICE = 1024
# Purposes of random numbers: the second half of Philox's key, so that no two uses share a stream.
SHARDS, POOL, REPLACE, PAIR, CROP, COLOUR, MASK, PHASE, SEQUENCE = range(9)


class _Nothing(ISeedSequence):
    """Seeds a generator whose state is set right after.

    numpy's own would ask the system for entropy, at 8 us each.
    """

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.zeros(n_words, dtype)


_NOTHING = _Nothing()


def numbers(seed: int, purpose: int, n: int, attempt: int = 0) -> np.random.Generator:
    """Return a generator whose numbers depend on these four integers alone.

    Philox; Salmon et al., SC 2011.
    """
    # numpy's stubs want classes and arrays; its code takes a seed sequence and tuples, in less
    # time.
    philox = np.random.Philox(_NOTHING)  # type: ignore - see above
    state = {
        "bit_generator": "Philox",
        "state": {"counter": (0, n, attempt, 0), "key": (seed % 2**64, purpose)},
        "buffer": (0, 0, 0, 0),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    philox.state = state  # type: ignore - see above
    return np.random.Generator(philox)


@dataclass
class Draw:
    """What fills a slot.

    Places in the manifest's lists, the pair kind, and how often the source was gone through.
    """

    source: int
    kind: int
    shard: int
    index: int
    epoch: int


def default_lanes(batch: int, shares: Sequence[float] | np.ndarray) -> int:
    """Return the most lanes, up to 256, that divide the batch.

    Every lane has whole quotas of kinds.
    """
    pattern = len(kind_pattern(batch, shares))
    return max(d for d in range(1, min(batch, 256) + 1) if batch % (d * pattern) == 0)


def kind_pattern(batch: int, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """(q,) index into PAIR_KINDS of rows 0 .. q-1, repeated down the batch.

    Raises:
        UserError: the batch does not hold whole numbers of each kind.
    """
    share = np.asarray(shares, float) / sum(shares)
    quota = share * batch
    if np.abs(quota - np.round(quota)).max() > 1e-6:
        raise UserError(
            f"batch={batch} does not divide by the shares of kinds {np.round(share, 4).tolist()}: "
            f"a batch would hold {np.round(quota, 3).tolist()} pairs of each; change batch or "
            f"data.kinds"
        )
    quota = np.round(quota).astype(int)
    return spread(quota // math.gcd(*quota.tolist()))


def quotas(shares: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near shares * total that add up to total (largest remainders)."""
    exact = np.asarray(shares, float) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def spread(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return entry numbers, count[i] times i, spread as evenly as they go.

    Smooth weighted round robin.
    """
    weight, credit, out = np.asarray(counts, float), np.zeros(len(counts)), []
    for _ in range(int(sum(counts))):
        credit += weight
        chosen = int(np.argmax(credit))
        credit[chosen] -= weight.sum()
        out.append(chosen)
    return np.array(out, np.int64)


def lay_out(kinds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the source of each slot of a period.

    Spread evenly over all slots and over those of each kind.

    At each slot the source that is furthest behind takes it: behind among the slots of this kind
    and behind among all slots, added up. (Each kind laid out by itself is even too, but windows
    over all slots then add both errors: docs/log.md.)

    Args:
        kinds: (T,) kind of each slot.  places: (K, S) how many slots of each kind each source gets;
            a row adds up to the kind's number of slots, and a source never gets a kind where it has
            0.
    Returns:
        (T,) int64, with exactly those numbers.
    """
    if (np.count_nonzero(places, 1) <= 1).all():
        return places.argmax(1)[kinds]
    done = 2**60  # puts a source that has all its places, or none, behind every other
    slots = np.bincount(kinds, minlength=len(places))
    unit = math.lcm(*slots[slots > 0].tolist())
    gains = places * (unit // np.maximum(slots, 1))[:, None]
    left, among_all = places.copy(), np.zeros(places.shape[1], np.int64)
    among_kind = np.where(places > 0, 0, -done)
    out = np.empty(len(kinds), np.int64)
    for n, k in enumerate(kinds.tolist()):
        behind = among_kind[k]
        behind += gains[k]
        among_all += gains[k]
        chosen = int((behind + among_all).argmax())
        behind[chosen] -= unit
        among_all[chosen] -= unit
        left[k, chosen] -= 1
        if not left[k, chosen]:
            behind[chosen] -= done
        out[n] = chosen
    return out


def _prime(least, other):
    """The smallest prime, not under ``least``, that does not divide ``other``."""
    return next(
        p
        for p in count(max(2, least))
        if other % p and all(p % d for d in range(2, math.isqrt(p) + 1))
    )


class Order:
    """The arithmetic above.

    Args:
        sources: SourceManifest of each source.  weights: of each, relative, among those that offer
            a kind.
        shares: of each of PAIR_KINDS in a batch; 0 leaves a kind out.
        seed, batch, lanes: batch is the global one; lanes divides it.
        pool_shards: samples are shuffled in pools of about so many shards' size.
    Attributes:
        quota: slots of each kind in a batch.  totals: clips of each source.
        slices: how many slices a source's epochs are cut into, a divisor of lanes.  lane_length:
            clips of each of them.
    Raises:
        UserError: quotas that are not whole, lanes that do not divide the batch, a kind that no
            source offers.
    """

    def __init__(
        self,
        sources: list["SourceManifest"],
        weights: Sequence[float],
        shares: Sequence[float],
        seed: int,
        batch: int,
        lanes: int,
        pool_shards: float,
    ) -> None:
        self.sources, self.seed, self.batch, self.lanes = sources, seed, batch, lanes
        self.shares = np.asarray(shares, float) / sum(shares)
        block = kind_pattern(batch, shares)
        if batch % (lanes * len(block)):
            fit = default_lanes(batch, shares)
            raise UserError(
                f"data.lanes={lanes} does not divide batch={batch} into lanes with whole quotas of "
                f"kinds (rows "
                f"come in groups of {len(block)}); data.lanes={fit} does"
            )
        in_block = np.bincount(block, minlength=len(PAIR_KINDS))
        self.quota = (in_block * (batch // len(block))).tolist()
        least = max(SLOTS / len(block), PLACES / in_block[in_block > 0].min())
        self.period = _prime(math.ceil(min(least, MOST_SLOTS / len(block))), batch // len(block))
        pattern = self._mix(weights, np.tile(block, self.period), in_block * self.period).reshape(
            self.period, -1
        )
        self.walks = [
            _Walk(source, pattern == s, batch, lanes, seed, pool_shards)
            for s, source in enumerate(sources)
        ]
        # Lists of small numbers, for draw is called for every slot and numpy's scalars are slow.
        self.kinds, self.pattern = block.tolist(), array("H", pattern.ravel().tolist())
        self.totals, self.slices = (
            [walk.total for walk in self.walks],
            [walk.slices for walk in self.walks],
        )
        self.lane_length = [walk.length for walk in self.walks]

    def _mix(self, weights, kinds, slots):
        """(P q,) source of each slot of the period; ``slots``: how many of them each kind has."""
        places = np.zeros((len(PAIR_KINDS), len(self.sources)), np.int64)
        for k, total in enumerate(slots.tolist()):
            if not total:
                continue
            offering = [
                w if k in s.offers else 0.0 for s, w in zip(self.sources, weights, strict=True)
            ]
            if not sum(offering):
                names = ", ".join(s.name for s in self.sources)
                raise UserError(
                    f"no clip of {names} has a {PAIR_KINDS[k]} pair, but data.kinds asks for them: "
                    f"set data.kinds.{PAIR_KINDS[k]}=0 or add a source"
                )
            places[k] = quotas(offering, total)
            for source, weight, given in zip(self.sources, offering, places[k], strict=True):
                if weight and not given:
                    raise UserError(
                        f"data.sources.{source.name}.weight={weight} is less than 1/{total} of the "
                        f"mix of "
                        f"{PAIR_KINDS[k]} pairs: it would never be read"
                    )
        return lay_out(kinds, places)

    def kind(self, n: int) -> int:
        """Index into PAIR_KINDS of slot n."""
        return self.kinds[n % len(self.kinds)]

    def draw(self, n: int, attempt: int = 0) -> Draw:
        """The Draw of slot n; attempt 1, 2, ... are what replaces samples whose bytes are bad."""
        source = self.pattern[n % len(self.pattern)]
        walk, kind = self.walks[source], self.kinds[n % len(self.kinds)]
        if not attempt:
            shard, index, epoch = walk.draw(n)
            if not walk.left_out or not walk.is_left_out(shard, index):
                return Draw(source, kind, shard, index, epoch)
        # A clip that is left out is replaced as attempt 0, whose numbers nothing else uses.
        place = int(numbers(self.seed, REPLACE, n, attempt).integers(walk.total - walk.left))
        return Draw(source, kind, *walk.clip(walk.remaining(place)), -1)

    def leave_out(self, left_out: Sequence["LeftOut"]) -> None:
        """Train on all clips but these, of each source; see data.sampling.held_out."""
        for source, walk, left in zip(self.sources, self.walks, left_out, strict=True):
            source.left_out = left
            starts = np.cumsum(source.counts) - source.counts
            walk.leave_out(np.sort(starts[left.shards] + left.indexes))

    def epochs(self, n: int) -> dict[str, float]:
        """Return {source name: how often it was gone through before slot n's batch}.

        Read off its first slice.
        """
        return {
            source.name: walk.before(n // self.batch) / walk.length
            for source, walk in zip(self.sources, self.walks, strict=True)
        }


class _Walk:
    """How one source is gone through.

    How often a slice of it was drawn before a slot, and which clip comes then.

    Args:
        source: SourceManifest.  mine: (P, q) bool, which slots of the period are the source's.
        batch, lanes, seed, pool_shards: as in Order.
    """

    def __init__(
        self,
        source: "SourceManifest",
        mine: np.ndarray,
        batch: int,
        lanes: int,
        seed: int,
        pool_shards: float,
    ) -> None:
        self.period, self.block = mine.shape
        self.batch, self.seed, self.counts = batch, seed, source.counts
        self.name = int.from_bytes(
            hashlib.blake2b(source.name.encode(), digest_size=4).digest(), "little"
        )
        self.total, shards = int(source.counts.sum()), max(1, np.count_nonzero(source.counts))
        most = max(1, min(lanes, shards, self.total // SLICE))
        self.slices = max(d for d in range(1, most + 1) if lanes % d == 0)
        self.length = max(1, math.ceil(self.total / self.slices))
        pools = max(1, round(self.length / max(1, pool_shards * self.total / shards)))
        self.pool = math.ceil(
            self.length / pools
        )  # equal ones: a short last one would hardly be shuffled
        self.rows = batch // self.slices
        self.ends = _ints(np.cumsum(source.counts))
        self._count(mine)
        self._epochs, self._pools = {}, {}
        self.left_out, self.left, self._before = frozenset(), 0, np.zeros(0, np.int64)

    def _count(self, mine):
        """Make the tables of how often the source comes before something.

        Before a slot, a block, and, in a slice, before a batch.
        """
        self.slots = _ints(np.cumsum(mine) - mine.ravel(), "I")
        self.of_period = int(mine.sum())
        turns, blocks = (
            self.batch // self.block,
            self.rows // self.block,
        )  # blocks of a batch, and of a slice of it
        before = np.concatenate([[0], np.cumsum(mine.sum(1))])
        first = np.arange(self.period) * turns % self.period
        whole, rest = np.divmod(first + blocks, self.period)
        drawn = whole * self.of_period + before[rest] - before[first]
        self.batches = _ints(np.concatenate([[0], np.cumsum(drawn)]))
        # Slice i begins where the first slice is ``starts[i]`` batches (modulo P) later.
        back = blocks * pow(turns, -1, self.period)
        self.starts = [i * back % self.period for i in range(self.slices)]
        self.earlier = [self.batches[start] for start in self.starts]

    def before(self, t: int, part: int = 0) -> int:
        """How often slice ``part`` was drawn before batch t."""
        turns, rest = divmod(t + self.starts[part], self.period)
        return turns * self.batches[-1] + self.batches[rest] - self.earlier[part]

    def _slots_before(self, n):
        turns, rest = divmod(n, len(self.slots))
        return turns * self.of_period + self.slots[rest]

    def draw(self, n: int) -> tuple[int, int, int]:
        """(shard, index, epoch) of slot n, which must be one of the source's."""
        t, j = divmod(n, self.batch)
        part = j // self.rows
        drawn = (
            self.before(t, part)
            + self._slots_before(n)
            - self._slots_before(t * self.batch + part * self.rows)
        )
        epoch, place = divmod(drawn, self.length)
        pool, inside = divmod(place, self.pool)
        number, shards, ends, turn = self._epochs.get(epoch & 1, _NO_EPOCH)
        if number != epoch:
            shards, ends, turn = self._begin_epoch(epoch)
        number, shuffled = self._pools.get(part, _NO_POOL)
        if number != (epoch, pool):
            shuffled = self._begin_pool(epoch, part, pool)
        # The turn moves the slices' borders from epoch to epoch; the last slice wraps by less than
        # one sample a slice.
        position = (part * self.length + pool * self.pool + shuffled[inside] + turn) % self.total
        at = bisect_right(ends, position)
        return shards[at], position - (ends[at - 1] if at else 0), epoch

    def clip(self, place: int) -> tuple[int, int]:
        """(shard, index) of the source's clip number ``place``, in the manifest's order."""
        shard = bisect_right(self.ends, place)
        return shard, place - (self.ends[shard - 1] if shard else 0)

    def leave_out(self, places: np.ndarray) -> None:
        """Replace these clips wherever they come, by others of the source.

        Args:
            places: (n,) increasing numbers of clips, in the manifest's order.
        """
        self.left_out, self.left = frozenset(places.tolist()), len(places)
        self._before = places - np.arange(len(places))

    def is_left_out(self, shard: int, index: int) -> bool:
        """Whether a clip is one of those that are replaced."""
        return (self.ends[shard - 1] if shard else 0) + index in self.left_out

    def remaining(self, place: int) -> int:
        """The number of the clip that is number ``place`` of those that are not left out."""
        return place + int(np.searchsorted(self._before, place, side="right"))

    def _begin_epoch(self, epoch):
        """Shuffle the shards.

        Slices are at one epoch or at two neighbouring ones, so two are kept.
        """
        shards = self._rng(SHARDS, epoch, 0).permutation(len(self.counts))
        turn = int(self._rng(PHASE, epoch, 0).integers(self.total))
        found = _ints(shards), _ints(np.cumsum(self.counts[shards])), turn
        self._epochs[epoch & 1] = (epoch, *found)
        return found

    def _begin_pool(self, epoch, part, pool):
        """Shuffle a pool; a slice is gone through in order, so only its present pool is kept."""
        length = min(self.pool, self.length - pool * self.pool)
        shuffled = self._rng(POOL, epoch, part * 2**20 + pool).permutation(length)
        # 2 bytes each where they do: one process that owns all lanes keeps a pool a lane, of tens
        # of thousands of clips.
        self._pools[part] = (epoch, pool), _ints(shuffled, "H" if length <= 2**16 else "I")
        return self._pools[part][1]

    def _rng(self, purpose, epoch, which):
        return numbers(self.seed, purpose, epoch * 2**32 + self.name, which)


_NO_EPOCH, _NO_POOL = (-1, None, None, 0), (None, None)


def _ints(values, code="q"):
    """Return an array of Python's own.

    As small as numpy's, and its entries come out as plain integers, in half the time.
    """
    return array(code, np.asarray(values).astype(code).tobytes())
