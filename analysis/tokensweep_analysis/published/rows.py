"""Reads a CSV file as it is, or says what is wrong with it and how to save it. For the audit.

Nothing is guessed: a separator other than a comma, another encoding, a line with a field too many are errors,
since each of them would put a number under another column.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

LINE = "line"  # the key of a row's line number, counted from 1
_MOST_SHOWN = 5  # problems of a file in one message
_OTHER_SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}
_TEXT_CONTROLS = "\t\n\r"


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows with their ``columns`` and :data:`LINE`, texts without outer blanks; empty rows are left out.

    Other columns are not read. Raises ValueError naming file and line for what is no such file.
    """
    text = _text(path)
    lines = list(_lines(path.name, text))
    if not lines:
        raise ValueError(
            f"{path.name} must have a header and a row per printed number, got an empty file: add them"
        )
    names = [name.strip() for name in lines[0][1]]
    _check_header(path.name, names, columns, first=text.splitlines()[0] if text else "")
    rows, problems = [], []
    for line, fields in lines[1:]:
        if len(fields) != len(names):
            rest = "put text with commas in quotes" if len(fields) > len(names) else "add the missing commas"
            problems.append(
                f"line {line}: must have {len(names)} fields like line 1, got {len(fields)}: {rest}"
            )
            continue
        row = {name: field.strip() for name, field in zip(names, fields, strict=True) if name in columns}
        if any(row.values()):
            rows.append({LINE: str(line), **row})
    refuse(path.name, problems)
    if not rows:
        raise ValueError(f"{path.name} must have a row per printed number, got only a header: add rows")
    return rows


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise a ValueError with the first problems of a file, if there are any."""
    if problems:
        more = [f"and {len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        raise ValueError("\n".join([f"{name} cannot be read:", *problems[:_MOST_SHOWN], *more]))


def _text(path: Path) -> str:
    if path.is_dir():
        raise ValueError(f"{path} must be a CSV file, got a folder: name a file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} must be a CSV file, got nothing of that name: check the path") from None
    except OSError as error:
        raise ValueError(f"{path} must be a readable file, got: {error.strerror}: mend that") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name} must be text in UTF-8, got the byte 0x{content[error.start]:02x} in line {line}: "
            "save it as UTF-8 (spreadsheets call it 'CSV UTF-8')"
        ) from error
    odd = next((c for c in text if unicodedata.category(c) == "Cc" and c not in _TEXT_CONTROLS), "")
    if odd:
        line = text[: text.index(odd)].count("\n") + 1
        raise ValueError(
            f"{path.name} must be text, got the control character {odd!r} in line {line}: remove it"
        )
    return text


def _lines(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Fields with the number of the line where they begin; lines without any text are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begin = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield begin, fields
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name} must be comma-separated, quotes in pairs, got: {error}, in the row from line {begin}: "
            "correct its quotes"
        ) from error


def _check_header(name: str, names: Sequence[str], columns: Sequence[str], *, first: str) -> None:
    missing = [column for column in columns if column not in names]
    used = next((other for other in _OTHER_SEPARATORS if other in first), "")
    if len(missing) == len(columns) and len(names) == 1 and used:
        raise ValueError(
            f"{name} must be comma-separated, got {_OTHER_SEPARATORS[used]} in line 1: save it with commas"
        )
    if len(missing) == len(columns):
        raise ValueError(
            f"{name} line 1 must be the header {','.join(columns)}; got {first[:100]!r}: put the header there"
        )
    if missing:
        raise ValueError(
            f"{name} line 1 must name the columns {', '.join(columns)}; missing: {', '.join(missing)}; "
            f"got {', '.join(names)}: add them, empty where unknown"
        )
    twice = [column for column, count in Counter(names).items() if count > 1 and column in columns]
    if twice:
        raise ValueError(
            f"{name} line 1 must name every column once, got twice: {', '.join(twice)}: delete one"
        )
