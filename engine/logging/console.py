"""What commands say to who runs them, through Python's ``logging``.

    log = get_logger(__name__)
    log.info("reading %d shards", count)       # a line of progress, on stderr
    log.warning("shard %s is damaged", path)   # "warning: shard ... is damaged"

A program that imports counterpose hears warnings alone, as from any library, and sets its own
handlers on the logger "counterpose". The commands, and the processes that they start, show info as
well; ``COUNTERPOSE_LOG=warning`` makes them quiet and ``COUNTERPOSE_LOG=debug`` talkative. What a
command was asked for, such as the table of ``data stats``, is not a message: it is printed on
stdout.
"""

import logging
import os
import sys

from engine.errors import UserError

ROOT = "counterpose"
VARIABLE = "COUNTERPOSE_LOG"
LEVELS = ("debug", "info", "warning", "error")


class ConsoleFormatter(logging.Formatter):
    """Formats a record as the commands word it: its level in front from warnings on."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return f"{record.levelname.lower()}: {text}"


class ConsoleHandler(logging.Handler):
    """Writes records to what ``sys.stderr`` is when they come: tests and launchers replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line and flush it."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            self.handleError(record)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module, below the logger "counterpose"; ``name`` is its ``__name__``."""
    return logging.getLogger(f"{ROOT}.{name}")


def configure_console() -> None:
    """Show messages on stderr, from the level on that ``COUNTERPOSE_LOG`` names (default: info).

    Calling it again changes nothing but the level. Processes that are started from here on find
    the level in their environment; see ``follow_console``.

    Raises:
        UserError: the variable names no level.
    """
    level = os.environ.setdefault(VARIABLE, "info").lower()
    if level not in LEVELS:
        raise UserError(f"{VARIABLE}={level} is none of {', '.join(LEVELS)}")
    root = logging.getLogger(ROOT)
    root.setLevel(level.upper())
    root.propagate = False
    if not any(isinstance(handler, ConsoleHandler) for handler in root.handlers):
        handler = ConsoleHandler()
        handler.setFormatter(ConsoleFormatter())
        root.addHandler(handler)


def follow_console() -> None:
    """Show messages in a worker as the command does that started it.

    A worker of a program that configured nothing is as quiet as the program.
    """
    if VARIABLE in os.environ:
        configure_console()
