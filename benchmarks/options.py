"""``key=value`` on a benchmark's command line."""

from collections.abc import Mapping, Sequence

from engine.errors import UserError
from engine.run.private import own_folder, temporary_folder


def read_options(argv: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return {name: text}, ``defaults`` ({name: text}) with what the command line says on top.

    Where the default is a number the value must be one; where it is a whole number, 1e4 becomes
    10000.

    Raises:
        UserError: an argument is none of them, or not a number.
    """
    options = dict(defaults)
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name not in defaults or not equals:
            raise UserError(f"'{argument}' is none of {', '.join(f'{k}=' for k in defaults)}")
        options[name] = _number(value, argument) if defaults[name].isdecimal() else value
    return options


def own_temporary(name: str) -> str:
    """Return a folder of this user alone among the temporary files, there again at the next run."""
    return own_folder(temporary_folder(name), "name another with data=DIR")


def _number(value: str, argument: str) -> str:
    try:
        number = float(value)
        return str(int(number)) if number == int(number) else value
    except (ValueError, OverflowError):
        raise UserError(f"'{argument}': the value is not a number") from None
