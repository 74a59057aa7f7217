"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something a person can mend: a key, a path, a file, a full disk.

    The message is one line that names the key or file and, where two values disagree, both. Commands print it without a
    traceback and leave with exit code 2.
    """
