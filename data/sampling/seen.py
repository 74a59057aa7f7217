"""What training saw, so that nobody is tested on it: it travels in checkpoints and exports.

Clips are named by their shard's digest and by how many of its first clips were trained on: a run
holds out the last ones. People are named by data.format.names.mark, so that somebody who also
appears in other shards, under other keys, does not count as unseen. What cannot be known (weights
of others, files of before this record) is a sentence in ``unknown``: leakage is then not excluded,
and whoever tests says so.
"""

import base64
import functools
import json
import zlib
from dataclasses import dataclass, field

import numpy as np

from data.format.clip import MADE
from data.sampling.order import Order
from engine.errors import UserError

FORMAT = 1
MOST_PEOPLE = 1 << 20  # of more, 8 MB in every file of weights, none are listed
DIGEST_BYTES = 8  # of data.format.index.Index.digest, which is hex


@dataclass(frozen=True)
class Seen:
    """What weights have seen, in all the trainings that led to them.

    Attributes:
        clips: {digest of a shard: how many of its first clips}.
        people: marks of the people in those clips, as far as they are listed.
        listed: digests of the shards whose people are among ``people``.
        kinds: which of "synthetic" and "real" the people were, as far as is known.
        unknown: a sentence for each training of which it is not known what it saw; none: all is.
    """

    clips: dict[str, int] = field(default_factory=dict)
    people: frozenset[int] = frozenset()
    listed: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()

    def union(self, other: "Seen") -> "Seen":
        """What either saw."""
        clips = dict(self.clips)
        for digest, count in other.clips.items():
            clips[digest] = max(count, clips.get(digest, 0))
        return Seen(
            clips,
            self.people | other.people,
            self.listed | other.listed,
            self.kinds | other.kinds,
            tuple(sorted({*self.unknown, *other.unknown})),
        )

    def pack(self) -> str:
        """One line of text for a file's header, equal for equal records.

        It takes 13 characters a shard and 11 a person.
        """
        return self._packed

    @functools.cached_property
    def _packed(self):
        # Once a record, not once a save: of 60,000 shards it is 750 KB.
        digests = sorted(self.clips)
        counts = np.array([self.clips[digest] for digest in digests], "<u4")
        fits = len(self.people) <= MOST_PEOPLE
        people = np.array(sorted(self.people) if fits else [], "<u8")
        listed = np.packbits(np.array([fits and digest in self.listed for digest in digests], bool))
        return json.dumps(
            {
                "format": FORMAT,
                "shards": len(digests),
                "digests": _pack_bytes(bytes.fromhex("".join(digests))),
                "counts": _pack_bytes(counts.tobytes()),
                "people": _pack_bytes(people.tobytes()),
                "listed": _pack_bytes(listed.tobytes()),
                "kinds": sorted(self.kinds),
                "unknown": list(self.unknown),
            }
        )


def unpack(text: str, where: object) -> Seen:
    """The Seen of ``pack``.

    Args:
        where: the file, for messages.
    Raises:
        UserError: it is damaged, or a newer version of this software wrote it.
    """
    try:
        tree = json.loads(text)
        number = int(tree["format"])
        if number > FORMAT:
            raise UserError(
                f"{where}: its record of what training saw has format {number}; this software "
                f"reads up to {FORMAT}"
            )
        digests, counts = (
            _unpack_bytes(tree["digests"]),
            np.frombuffer(_unpack_bytes(tree["counts"]), "<u4").tolist(),
        )
        names = [
            digests[at : at + DIGEST_BYTES].hex() for at in range(0, len(digests), DIGEST_BYTES)
        ]
        clips = dict(zip(names, counts, strict=True))
        if len(clips) != tree["shards"]:
            raise ValueError(f"{len(clips)} shards, not {tree['shards']}")
        people = np.frombuffer(_unpack_bytes(tree["people"]), "<u8").tolist()
        bits = np.frombuffer(_unpack_bytes(tree["listed"]), np.uint8)
        bits = np.unpackbits(bits, count=len(names)).tolist()
        listed = frozenset(name for name, bit in zip(names, bits, strict=True) if bit)
        return Seen(
            clips,
            frozenset(people),
            listed,
            frozenset(map(str, tree["kinds"])),
            tuple(map(str, tree["unknown"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(f"{where}: its record of what training saw is damaged: {error}") from None


def seen_by(order: Order, people: list[tuple[str, str]]) -> Seen:
    """What a run with this data.sampling.order.Order sees.

    Args:
        people: (source, subject) of some of its clips, for ``kinds``.
    """
    clips = seen_in_manifest({source.name: source.record() for source in order.sources}).clips
    kinds = frozenset("synthetic" if name == MADE else "real" for name, _ in people)
    return Seen(clips, kinds=kinds)


def seen_in_manifest(sources: dict) -> Seen:
    """What a run saw by the "sources" of its manifest.json (data.sampling.manifest)."""
    clips = {}
    for record in sources.values():
        for digest, count in zip(record["digests"], record["counts"], strict=True):
            if count:
                clips[digest] = max(count, clips.get(digest, 0))
    return Seen(clips)


def leak_warnings(seen: Seen, who: object) -> list[str]:
    """Return sentences on what is not known of what weights saw, for a table of errors.

    One a thing.
    """
    return [
        f"what pre-training saw is unknown: leakage cannot be excluded ({who}: {words})."
        for words in seen.unknown
    ]


def _pack_bytes(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpack_bytes(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))
