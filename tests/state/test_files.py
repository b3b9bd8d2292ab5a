"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokensweep.files import JsonLines, last_line, read_lines, replacing, write_json, write_text


def test_a_failed_replacement_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as partial:  # noqa: PT012
        partial.write_text("new, but only ha")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_appears_with_its_folders_and_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.json"
    write_json(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}
    assert path.stat().st_mode & 0o044 == 0o044


def test_json_files_refuse_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2}\n{"n":')
    assert [row["n"] for row in read_lines(path)] == [1, 2]
    with JsonLines(path) as lines:
        lines.append({"n": 3})
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n{"n":3}\n'


def test_damage_before_the_last_line_is_reported_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":\n{"n":3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 must be a JSON object"):
        read_lines(path)


def test_the_last_line_is_found_in_a_file_longer_than_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "fill": "x" * 1000}) + "\n" for step in range(100)))
    row = last_line(path)
    assert row is not None
    assert row["step"] == 99
    assert last_line(tmp_path / "absent.jsonl") is None


def test_a_short_write_on_a_full_disk_leaves_only_complete_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    write = os.write
    calls = []

    def full(descriptor: int, content: bytes) -> int:
        calls.append(content)
        if len(calls) == 1:
            return write(descriptor, content[:4])  # the disk takes four bytes and is full then
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with JsonLines(path) as lines:
        lines.append({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(
                OSError, match=r"metrics\.jsonl could not be written \(No space left on device\)"
            ):
                lines.append({"n": 2})
        lines.append({"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]


_UNDER_A_SIZE_LIMIT = """
import resource, sys
from pathlib import Path
from tokensweep.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_text(Path(sys.argv[1]), "x" * 10000)
except OSError as error:
    print(error)
"""


def test_a_limit_of_the_operating_system_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")
    result = subprocess.run(
        [sys.executable, "-c", _UNDER_A_SIZE_LIMIT, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "report.md could not be written (File too large)" in result.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
