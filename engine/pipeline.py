"""Work in stages, each on a thread of its own, with few items waiting between them.

    pipeline = Pipeline({"crop": cut_crops, "network": ask_network})
    with pipeline.run("decode", read_frames(), "save") as answers:
        for answer in answers: ...

A stage is a generator function: it takes an iterator of items and yields others, so that it may
gather several to a batch. With threads or without, the same generators run in the same order on the
same items, so what comes out is equal. Threads are worth it where stages spend their time outside
of Python: in decoders, in torch, in kernels.
"""

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

Stage = Callable[[Iterator[Any]], Iterator[Any]]
Seconds = defaultdict[str, float]
DEPTH = 2  # items that wait before a stage: a frame of 12 megapixels has 36 MB


@contextlib.contextmanager
def count_seconds(seconds: Seconds, name: str) -> Generator[None, None, None]:
    """Add the wall seconds of a block to those of a name."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - start


class Pipeline:
    """Stages in order; see the module.

    Args:
        stages: {name: generator function}; the names are those of the threads.
        threads: each stage on its own thread; false: all on the caller's.
        seconds: {name: wall seconds in a stage, without those in which it waited for items}, to
            which those of each run are added; of the source and of what takes the items too.
        depth: most items that wait before each stage.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        threads: bool = True,
        seconds: Seconds | None = None,
        depth: int = DEPTH,
    ) -> None:
        self._stages, self._threads, self._depth = dict(stages), threads, depth
        self._seconds: Seconds = defaultdict(float) if seconds is None else seconds

    @contextlib.contextmanager
    def run(
        self, name: str, source: Iterable[Any], taker: str
    ) -> Generator[Iterator[Any], None, None]:
        """Give an iterator of what the last stage yields; the threads end with the block.

        What a stage raises, the iterator raises after all that came before it.

        Args:
            name: of the source, which has a thread of its own too.
            source: of the first stage's items.
            taker: name of what the block does with the items, on the caller's thread.
        """
        aheads: list[_Ahead] = []
        items = self._start(self._time(iter(source), name, 1), name, aheads)
        try:
            for stage, work in self._stages.items():
                taken = self._time(items, stage, -1)
                items = self._start(self._time(work(taken), stage, 1), stage, aheads)
            with count_seconds(self._seconds, taker):
                yield self._time(items, taker, -1)
        finally:
            for ahead in aheads:
                ahead.stop()
            for ahead in aheads:
                ahead.join()
            if not aheads:
                _close(items)

    def _start(self, items: Iterator[Any], name: str, aheads: "list[_Ahead]") -> Iterator[Any]:
        """The items themselves, or taken by a thread."""
        if not self._threads:
            return items
        aheads.append(_Ahead(items, name, self._depth))
        return aheads[-1]

    def _time(self, items: Iterator[Any], name: str, sign: int) -> Generator[Any, None, None]:
        """The items; the seconds that each takes are added to a stage's, or taken off."""
        try:
            while True:
                start = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self._seconds[name] += sign * (time.perf_counter() - start)
                yield item
                del item  # a frame is large: let go of it before the next one is made
        finally:
            _close(items)


def _close(items: Iterator[Any]) -> None:
    """Let a generator let go of what it holds open."""
    if isinstance(items, Generator):
        items.close()


class _Stopped(BaseException):
    """Nobody wants further items. No Exception: a stage must not take it for a fault of its own."""


class _Ahead:
    """An iterator whose items a thread takes before they are wanted, so many at most."""

    def __init__(self, items: Iterator[Any], name: str, depth: int) -> None:
        self._items, self._depth = items, depth
        self._waiting: deque[Any] = deque()
        self._moved = threading.Condition()
        self._is_stopped = self._is_done = False
        self._error: BaseException | None = None
        # A daemon: a process that leaves by os._exit or a second Ctrl-C does not wait for it.
        self._thread = threading.Thread(target=self._take, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> "_Ahead":
        return self

    def __next__(self) -> Any:
        with self._moved:
            while not (self._waiting or self._is_done or self._is_stopped):
                self._moved.wait()
            if self._is_stopped:
                raise _Stopped
            if self._waiting:
                self._moved.notify_all()
                return self._waiting.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def stop(self) -> None:
        """Tell the thread, and who waits for items of it, that no more are wanted."""
        with self._moved:
            self._is_stopped = True
            self._waiting.clear()
            self._moved.notify_all()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _take(self) -> None:
        try:
            for item in self._items:
                with self._moved:
                    while len(self._waiting) >= self._depth and not self._is_stopped:
                        self._moved.wait()
                    if self._is_stopped:
                        return
                    self._waiting.append(item)
                    self._moved.notify_all()
                del item
        except BaseException as error:  # whatever it is, it is raised where the items are wanted
            self._error = error
        finally:
            _close(self._items)
            with self._moved:
                self._is_done = True
                self._moved.notify_all()
