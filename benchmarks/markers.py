"""Generated parts of documents: what stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""

from __future__ import annotations

from pathlib import Path

from tokensweep.files import write_text


def generated(path: Path, name: str) -> str:
    """What stands between the markers. Raises ValueError unless the file has each once and in order."""
    return _parts(path, name)[1]


def insert(path: Path, name: str, content: str) -> None:
    """Replace what stands between the markers, in one step. Raises ValueError as :func:`generated`."""
    before, _, after = _parts(path, name)
    write_text(path, f"{before}\n\n{content}\n{after}")


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    """The text up to and with the first marker, what is between them, and the rest from the second on."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    inside, found, after = rest.partition(end)
    if not found or text.count(begin) + text.count(end) != 2:
        raise ValueError(
            f"{path} must have {begin} and below it {end}, each once: write them where the table belongs"
        )
    return f"{before}{begin}", inside.strip("\n"), f"{end}{after}"
