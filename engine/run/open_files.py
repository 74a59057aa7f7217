"""The limit on open files: raised as far as it may be, and what readers may take of it."""

import resource

# Files: what a process that reads shards can use; more would only be more to look through.
WANTED = 8192
SPARE = 256  # files, pipes and sockets of torch, logs and connections, beside the shards


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit on open files of this process and of those it starts; returns the limit.

    Args:
        wanted: files; the hard limit where that is lower. A higher soft limit stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return max(raised, soft)


def budget() -> int:
    """Return the files that a reader may keep open under the limit as it is now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    soft = WANTED if soft == resource.RLIM_INFINITY else soft
    return max(16, soft - min(SPARE, soft // 2))
