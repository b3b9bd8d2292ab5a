"""A file is read as it is: nothing shifts a number under another column, and errors say how to save it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokensweep_analysis.published.rows import read_rows

_COLUMNS = ("paper", "value", "note")
_GOOD = "paper,value,note\nOurs,40.0,\nOurs,43.3,Table 1\n"


def _read(folder: Path, content: bytes) -> list[dict[str, str]]:
    path = folder / "table.csv"
    path.write_bytes(content)
    return read_rows(path, _COLUMNS)


@pytest.mark.parametrize(
    "content",
    [
        _GOOD.encode("utf-8-sig"),
        _GOOD.replace("\n", "\r\n").encode(),
        _GOOD.replace("\n", "\r").encode(),
        _GOOD.replace("note\n", "note,more\n").replace(",\n", ",,x\n").replace("1\n", "1,\n").encode(),
        _GOOD.replace(",value,", ", value ,").encode(),
    ],
    ids=[
        "byte-order mark",
        "windows line ends",
        "old mac line ends",
        "another column",
        "blanks around a name",
    ],
)
def test_what_editors_do_to_a_file_changes_no_row(tmp_path: Path, content: bytes) -> None:
    assert _read(tmp_path, content) == [
        {"line": "2", "paper": "Ours", "value": "40.0", "note": ""},
        {"line": "3", "paper": "Ours", "value": "43.3", "note": "Table 1"},
    ]


def test_empty_rows_count_as_lines_only(tmp_path: Path) -> None:
    rows = _read(tmp_path, b"paper,value,note\n\n,,\nOurs,40.0,\n")
    assert [row["line"] for row in rows] == ["4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "table.csv must have a header .* got an empty file: add them"),
        (b"\n\n", "got an empty file"),
        (b"paper,value,note\n", "a row per printed number, got only a header: add rows"),
        (_GOOD.replace(",", ";").encode(), "must be comma-separated, got ';' in line 1: save it with commas"),
        (_GOOD.replace(",", "\t").encode(), "must be comma-separated, got a tab in line 1"),
        (
            _GOOD.replace("Table", "Täble").encode("latin-1"),
            "must be text in UTF-8, got the byte 0xe4 in line 3",
        ),
        (_GOOD.encode("utf-16"), "must be text in UTF-8, got the byte 0xff in line 1: save it as UTF-8"),
        (_GOOD.replace("Table", "Ta\0ble").encode(), r"control character '\\x00' in line 3"),
        (b"paper,value\nOurs,40.0\n", "line 1 must name the columns .* missing: note; got paper, value: add"),
        (b"Ours,40.0,\n", "line 1 must be the header paper,value,note; got 'Ours,40.0,': put the header"),
        (b"paper,value,note,value\nOurs,1,,2\n", "name every column once, got twice: value: delete one"),
        (b"paper,value,note\nOurs,40.0\n", "line 2: must have 3 fields like line 1, got 2: add the missing"),
        (b'paper,value,note\nOurs,40.0,"x\n', "quotes in pairs, got: .* in the row from line 2: correct"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, content)


def test_a_comma_too_many_in_every_row_is_no_shift_of_columns(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="line 2: must have 3 fields like line 1, got 4: put text with commas"
    ):
        _read(tmp_path, b"paper,value,note\nOurs,40.0,Table 1, temperature 1\n")


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a CSV file, got a folder"):
        read_rows(tmp_path, _COLUMNS)
    with pytest.raises(ValueError, match="must be a CSV file, got nothing of that name: check the path"):
        read_rows(tmp_path / "none.csv", _COLUMNS)
