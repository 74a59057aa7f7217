"""What fails before a process has its watch, told to the other ranks. Imports torch only then."""

import contextlib
from collections.abc import Iterator

from engine.distributed.rank_env import RankEnv, read_rank_env
from engine.errors import Failure, UserError

# Other ranks hear of a failure before there is a watch only after they have imported torch as well.
TELL_S = 60


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Tell the other ranks what fails in this block, before a process has its watch.

    It goes where all ranks meet, and says there why it ends. A process alone just fails.
    """
    try:
        yield
    except Exception as error:
        env = _read_others()
        if env is None:
            raise
        from engine.distributed.heartbeat import Watch

        try:
            watch = Watch(env, hang_s=TELL_S, meet_s=TELL_S)
        except Failure:
            raise error from None  # there is no rank to report it to
        watch.__exit__(type(error), error, error.__traceback__)  # ends the process


def _read_others() -> RankEnv | None:
    """This process's RankEnv where there are other ranks to report to, else None."""
    try:
        env = read_rank_env()
    except UserError:
        return None  # they find the same
    return env if env.world > 1 else None
