"""What the launcher says of this process in its environment. Nothing here imports torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import UserError


@dataclass(frozen=True)
class RankEnv:
    """Which process of how many this is.

    Attributes:
        rank: 0 .. world - 1.  local: its number on its node, which is also that of its GPU.
        local_world: processes of this node.
        address, port: where rank 0 is found; None where there is one process alone.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    address: str | None = None
    port: int | None = None


def read_rank_env(env: Mapping[str, str] = os.environ) -> RankEnv:
    """Return the RankEnv of the variables that torchrun, or another launcher, sets.

    They are RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    One that is empty counts as not set.

    Raises:
        UserError: one is not such a number, is missing, or two contradict each other.
    """
    rank, world = _number(env, "RANK", 0), _number(env, "WORLD_SIZE", 1)
    local, local_world = _number(env, "LOCAL_RANK", 0), _number(env, "LOCAL_WORLD_SIZE", 1)
    if world is None and rank:
        raise _incomplete("RANK", rank, "WORLD_SIZE")
    if rank is None and (world or 1) > 1:
        raise _incomplete("WORLD_SIZE", world, "RANK")
    _check_below("RANK", rank, "WORLD_SIZE", world)
    _check_below("LOCAL_RANK", local, "LOCAL_WORLD_SIZE", local_world)
    if world is None or rank is None or world == 1:
        # A number on the node may be that of a GPU which somebody chose.
        return RankEnv(local=local or 0, local_world=local_world or 1)
    if (local_world or 1) > world:
        raise UserError(
            f"LOCAL_WORLD_SIZE={local_world} in the environment does not fit "
            f"WORLD_SIZE={world}: a node has no more processes than there are"
        )
    address, port = _text(env, "MASTER_ADDR"), _number(env, "MASTER_PORT", 1)
    for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)):
        if not value:
            raise UserError(
                f"WORLD_SIZE={world} is set in the environment without {name}, under "
                f"which rank 0 is found; a launcher such as torchrun sets both"
            )
    _check_below("MASTER_PORT", port, "the number of ports", 2**16)
    return RankEnv(rank, world, local or 0, local_world or 1, address, port)


def count_threads(env: Mapping[str, str] = os.environ) -> int | None:
    """Return OMP_NUM_THREADS, None where it is not set.

    Of a list, for levels of nesting, the first counts.

    Raises:
        UserError: it is not a number of threads.
    """
    text = _text(env, "OMP_NUM_THREADS")
    if not text:
        return None
    for part in text.split(","):
        if not _is_number(part.strip()) or int(part) < 1:
            raise UserError(
                f"OMP_NUM_THREADS={text} in the environment is not a number of threads: "
                f"unset it, or give one such as 4"
            )
    return int(text.split(",")[0])


def _incomplete(name, value, other):
    return UserError(
        f"{name}={value} is set in the environment without {other}; a launcher such "
        f"as torchrun sets both, and one process alone wants neither: unset {name}"
    )


def _check_below(name, value, limit, most):
    if value is not None and most is not None and value >= most:
        raise UserError(f"{name}={value} in the environment is not below {limit}={most}")


def _number(env, name, least):
    text = _text(env, name)
    if not text:
        return None
    if not _is_number(text) or int(text) < least:
        raise UserError(
            f"{name}={text} in the environment is not a whole number from {least} on; a "
            f"launcher such as torchrun sets it, and one process alone wants none"
        )
    return int(text)


def _text(env, name):
    return env.get(name, "").strip()


def _is_number(text):
    return text.isascii() and text.isdigit() and len(text) < 10
