"""The one exception that a user is meant to read."""

import errno


class UserError(Exception):
    """Something a person can mend: a key, a path, a file, a full disk.

    The message is one line that names the key or file and, where two values disagree, both. Commands print it without a
    traceback and leave with exit code 2.
    """


def explain(error):
    """An OSError in a user's words."""
    if error.errno == errno.ENOSPC:
        return "no space left on the device"
    return (error.strerror or str(error)).lower()
