"""One command's shards shared out among the elements of a job array."""

from dataclasses import dataclass

from engine.errors import UserError

HELP = (
    "K/N: of the shards only every N-th, from the K-th on; the elements of a job array share a "
    "folder so"
)


@dataclass(frozen=True)
class Part:
    """Which shards are this process's: every ``count``-th from number ``first`` (0-based) on."""

    first: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> "Part":
        """Of "K/N", 1 <= K <= N; None is the whole.

        Raises:
            UserError: it is not of that form.
        """
        if text is None:
            return cls()
        k, slash, n = text.partition("/")
        if not (slash and k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
            raise UserError(f"part={text} is not of the form K/N with K from 1 to N")
        return cls(int(k) - 1, int(n))

    def has(self, number: int) -> bool:
        """Return whether the shard of a number is this process's."""
        return number % self.count == self.first

    @property
    def alone(self) -> bool:
        """Whether nobody else writes into the folder."""
        return self.count == 1
