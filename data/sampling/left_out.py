"""Which training clips a source leaves out, as they share frames with validation clips."""

import base64
import hashlib
import zlib
from dataclasses import dataclass, field

import numpy as np

from engine.errors import UserError


@dataclass(frozen=True)
class LeftOut:
    """Clips of one source.

    Attributes:
        shards, indexes: (n,) int64, where each lies: number of the shard, number in it; by shard,
            then by index.
        moments, looks: how many share a camera's moment, and how many more look alike.
    """

    shards: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    indexes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    moments: int = 0
    looks: int = 0

    def __len__(self) -> int:
        return len(self.shards)

    def record(self) -> dict[str, object]:
        """What a run's manifest.json says of it: how many and why, and which, packed."""
        rows = np.stack([self.shards, self.indexes]).astype("<u4")
        packed = base64.b64encode(zlib.compress(rows.tobytes(), 9)).decode() if len(self) else ""
        return {
            "clips": len(self),
            "same_moment": self.moments,
            "same_look": self.looks,
            "digest": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
            "which": packed,
        }


def read_record(record: dict | None, where: object) -> LeftOut:
    """The LeftOut of ``LeftOut.record``.

    Raises:
        UserError: it is damaged; ``where`` names the file.
    """
    if not record or not record["which"]:
        return LeftOut()
    try:
        rows = np.frombuffer(zlib.decompress(base64.b64decode(record["which"])), "<u4")
        shards, indexes = rows.reshape(2, record["clips"]).astype(np.int64)
    except (ValueError, zlib.error) as error:
        raise UserError(f"{where}: its list of left-out clips is damaged: {error}") from None
    return LeftOut(shards, indexes, record["same_moment"], record["same_look"])
