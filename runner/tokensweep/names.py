"""Names that people give: those that become parts of paths, and labels that are only shown."""

from __future__ import annotations

import re

_LONGEST = 100  # bytes; a file system takes 255, and we append ids to names
_NAME = re.compile(r"\w[\w.=,+@-]*")


def check_name(name: str, *, what: str) -> str:
    """``name`` if it can be one part of a path, of a URL and of a job's name.

    Raises ValueError that says ``what`` it is for anything else: ``../x``, a slash, a space, a leading dot.
    """
    if not _NAME.fullmatch(name) or len(name.encode(errors="replace")) > _LONGEST:
        raise ValueError(
            f"{what} must begin with a letter, a digit or _, go on with those and . = , + @ - only, and have "
            f"at most {_LONGEST} bytes, got {_shortened(name)}: choose another name"
        )
    return name


def check_label(label: str, *, what: str, longest: int | None = _LONGEST) -> str:
    """``label`` if it can stand in a table and in a tag of MLflow: one line of printable characters.

    Raises ValueError for an empty one, one that begins or ends with a space, one with a character that cannot
    be seen, and one of more than ``longest`` characters.
    """
    too_long = longest is not None and len(label) > longest
    if not label or label != label.strip() or not label.isprintable() or too_long:
        limit = "" if longest is None else f" at most {longest}"
        raise ValueError(
            f"{what} must consist of{limit} printable characters in one line, got {_shortened(label)}: "
            "choose another name"
        )
    return label


def printable(text: str) -> str:
    """The text in one line, with whatever cannot be seen as Python escapes it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text).strip()


def _shortened(name: str) -> str:
    """The name as a message shows it, without characters that act on a terminal."""
    return ascii(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...")
