"""A place for one item between threads: who takes gets the newest, older ones are forgotten."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """Holds the newest item; several threads may put and take."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._count = 0
        self._is_closed = False

    def put(self, item: Item) -> None:
        """Replace what is there."""
        with self._changed:
            self._item = item
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nothing comes any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, after: int, timeout_s: float) -> tuple[int, Item] | None:
        """Return (how many were put, the newest), as soon as more than ``after`` were.

        None where none came in time, or none comes any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count > after or self._is_closed, timeout_s)
            if self._count <= after or self._item is None:
                return None
            return self._count, self._item

    @property
    def is_closed(self) -> bool:
        """Whether nothing comes any more."""
        return self._is_closed
