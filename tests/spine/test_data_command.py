"""``tokensweep data``: the table, the check of files, the download (from a fake of the hub)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tokensweep.data.catalogue import known_sets
from tokensweep.data.command import data_command
from tokensweep.data.fetch import Downloaded
from tokensweep.problems.checks import answers_hash
from tokensweep.problems.jsonl import JsonlProblems


def write(file: Path, texts: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{file.stem}-{i}", "problem": text, "answer": str(i)} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def fake_hub(source: JsonlProblems) -> Downloaded:
    """As openai/gsm8k, with two problems and a copy."""
    rows = [{"question": f"{i % 2} + 1?", "answer": f"... #### {i % 2 + 1}"} for i in range(3)]
    return Downloaded(commit="e" * 40, rows=rows)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_list_says_what_is_here_and_what_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data" / "aime25.jsonl", ["x"])
    data_command(["list", f"store={tmp_path}"])
    text = printed(capsys)
    assert "aime25 30 2025-02-12 yes MathArena/aime_2025 CC BY-NC-SA 4.0 loaders read" in text
    assert "aime24 30 2024-02-07 no" in text
    assert f"here means {tmp_path}/data/<set>.jsonl" in text


def test_the_list_fits_a_terminal_and_breaks_no_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    data_command(["list", f"store={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    for source in known_sets().values():
        assert any(line.startswith(f"  {source.hub}  ") for line in lines), source.name
    assert [line for line in lines if len(line) > 80 and not line.startswith("here means")] == []


def test_a_fetched_set_is_found_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_command(["fetch", "gsm8k", f"store={tmp_path}"], download=fake_hub)
    assert "gsm8k 2 problems from 3 rows of openai/gsm8k at eeeeeeeeeeee, 1 copies merged" in printed(capsys)
    data_command(["check", "gsm8k", f"store={tmp_path}"])
    assert "2 0..999" in printed(capsys)
    data_command(["fetch", "gsm8k", f"to={tmp_path / 'usb'}"], download=fake_hub)
    assert (tmp_path / "usb" / "gsm8k.jsonl").is_file()


def test_another_commit_of_one_set_can_be_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pinned(source: JsonlProblems) -> Downloaded:
        assert source.revision is not None
        return Downloaded(commit=source.revision, rows=fake_hub(source).rows)

    data_command(["fetch", "gsm8k", f"revision={'a' * 40}", f"store={tmp_path}"], download=pinned)
    assert "of openai/gsm8k at aaaaaaaaaaaa" in printed(capsys)
    with pytest.raises(ValueError, match="is a commit of one dataset, got 2 sets"):
        data_command(["fetch", "gsm8k", "math", "revision=abc", f"store={tmp_path}"], download=pinned)


def test_an_unknown_set_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no set 'aime99': known are aime24, aime25"):
        data_command(["fetch", "gsm8k", "aime99", f"store={tmp_path}"], download=fake_hub)
    assert list(tmp_path.iterdir()) == []


def test_a_file_named_like_a_known_set_must_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "aime25.jsonl", ["x", "y", "y"])
    with pytest.raises(SystemExit, match="1"):
        data_command(["check", str(file), f"store={tmp_path}"])
    text = printed(capsys)
    assert "must have 30 problems, got 3" in text
    assert "must have each problem once, got 1 repeated: aime25-2 and aime25-1" in text


def test_training_and_evaluation_files_that_overlap_fail_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data" / "math.jsonl", ["Find $x$.", "Find y."])
    mine = write(tmp_path / "mine.jsonl", ["find nothing", "Find \\(x\\)."])
    with pytest.raises(SystemExit, match="1"):
        data_command(["check", str(mine), f"store={tmp_path}"])
    assert "mine and math share 1 problems: mine-1" in printed(capsys)


def test_files_without_findings_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_command(["check", str(write(tmp_path / "a.jsonl", ["x"])), str(write(tmp_path / "b.jsonl", ["y"]))])
    text = printed(capsys)
    assert "no copy found in 1 pairs of training and evaluation files" in text
    assert "compared: letters and digits, also of a problem within a longer text" in text
    assert "reworded problems are not found" in text


def failed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a check prints that ends with 1."""
    with pytest.raises(SystemExit, match="1"):
        data_command(["check", *words])
    return printed(capsys)


@pytest.mark.parametrize("answer", ["\\frac{1", "[1, 2"])
def test_an_answer_that_a_run_refuses_fails_the_check(
    answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"id": "a", "problem": "x", "answer": "1"}, {"id": "b", "problem": "y", "answer": answer}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="the answer of 'b' must verify against itself"):
        JsonlProblems(path=str(file)).check()
    text = failed([str(file), f"store={tmp_path}"], capsys)
    assert f"must have answers that verify against themselves, got 1 others: {answer!r} of b" in text


def test_every_file_is_checked_whatever_is_wrong_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zipped.jsonl").write_bytes(b"\x1f\x8b\x08")
    sound, none = write(tmp_path / "sound.jsonl", ["x"]), tmp_path / "nope.jsonl"
    words = [str(tmp_path / "zipped.jsonl"), str(none), "aime25", str(sound), f"store={tmp_path}"]
    text = failed(words, capsys)
    assert "zipped.jsonl must be text in UTF-8" in text
    assert f"{none} is neither a file nor a known set: give a JSONL file" in text
    assert "not here: tokensweep data fetch aime25 downloads it" in text
    assert "sound (a set of your own)" in text
    assert "data.path" not in text


def test_a_procedural_task_has_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_command(["check", "ops", f"store={tmp_path}"])
    assert "procedural: its problems are made, not read from a file; there is nothing" in printed(capsys)


def test_a_broken_file_of_the_store_is_named_as_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data" / "math.jsonl", ["x"]).write_text("{")
    data_command(["check", str(write(tmp_path / "mine.jsonl", ["x"])), f"store={tmp_path}"])
    text = printed(capsys)
    assert "math was not compared with:" in text
    assert "no copy found" not in text


def test_what_was_not_compared_is_not_called_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = write(tmp_path / "aime25.jsonl", [f"another text {i}" for i in range(30)])
    problems = JsonlProblems(path=str(made_up)).whole_file()
    pinned = replace(known_sets()["aime25"], answers=answers_hash(problems))
    monkeypatch.setattr("tokensweep.data.check.known_sets", lambda: {"aime25": pinned})
    data_command(["check", str(made_up), f"store={tmp_path}"])
    assert "sound; answers as known, texts not compared" in printed(capsys)
