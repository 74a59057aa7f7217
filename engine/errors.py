"""The kinds of failure, their exit codes, and how an OSError becomes one of them.

Nothing here imports torch.

the user's         UserError            a person acts: a key, a path, a file, a right; starting
                                        again changes nothing
the environment's  EnvironmentFault     nobody acts: a disk, a network, a node, memory; starting
                                        again, maybe on another machine, may help
the program's      any other exception  a developer acts: retried a set number of times, for some
                                        faults depend on the moment
"""

import enum
import errno


class ExitCode(enum.IntEnum):
    """How a command ends.

    docs/training.md has the table for people, slurm.supervisor.exit_policy acts by it.
    """

    DONE = 0
    PROGRAM = 1  # a fault of the program, told by a traceback
    USER = 2  # a person has to mend something
    # The machine, its disk or its network: start the same command again, and on another machine if
    # it repeats.
    ENVIRONMENT = 74
    # Saved, or nothing to save yet, on request: the same command resumes it.
    STOPPED = 75
    LOST_RANK = 76  # a rank died or hung: start the same command again
    DIVERGED = 77  # needs a person: started again it comes to the same end
    INTERRUPTED = 130


class Failure(Exception):
    """A failure told in one line, without a traceback; never raised itself, only its kinds are.

    The message names the key or file and, where two values disagree, both.
    """

    exit_code: ExitCode = ExitCode.PROGRAM
    relayed = False  # raised on another rank first, which is the one to be named


class UserError(Failure):
    """Something a person can mend: a key, a path, a file, a right.

    Starting again changes nothing.
    """

    exit_code = ExitCode.USER


class EnvironmentFault(Failure):
    """The machine's fault: a full or failing disk, a network, lost memory, a lock in use.

    Starting again may help.
    """

    exit_code = ExitCode.ENVIRONMENT


# What only a person can change: what is not there, what may not be read, what is of another type.
# Everything else that a system call may say (EIO, ESTALE, ENOSPC, EMFILE, ETIMEDOUT, ...) depends
# on the machine and the moment.
USER_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ELOOP,
        errno.ENOTEMPTY,
    }
)


def explain(error: OSError) -> str:
    """Return an OSError in a user's words."""
    if error.errno == errno.ENOSPC:
        return "no space left on the device"
    return (error.strerror or str(error)).lower()


def failure_of(error: OSError, message: str) -> Failure:
    """Return the UserError or EnvironmentFault, by its errno, that an OSError is.

    To be raised with ``from None``.
    """
    return (UserError if error.errno in USER_ERRNOS else EnvironmentFault)(message)
