"""Files that hold the calibrations of several captures or subjects."""

from typing import Any

from engine.errors import UserError


def choose_part(parts: dict[str, Any], part: str | None, path: str, what: str) -> Any:
    """The one calibration of a file that is meant.

    Args:
        parts: {name: calibration}.  part: from ``calibration_part``; None where there is one only.
        path: of the file, for messages.  what: a part is, such as "capture".
    Raises:
        UserError: there are several, or not this one.
    """
    names = sorted(map(str, parts))
    shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    if part is None and len(names) == 1:
        return parts[names[0]]
    if part is None:
        raise UserError(
            f"calibration {path} has {len(names)} {what}s: {shown}; say which with "
            "calibration_part="
        )
    if part not in parts:
        raise UserError(f"calibration_part={part}: {path} has the {what}s {shown}")
    return parts[part]
