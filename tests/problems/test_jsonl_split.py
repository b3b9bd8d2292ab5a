"""A file of training problems can hold some out by the hash of their id."""

import json
from pathlib import Path

import pytest

from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.procedural import Split


def _file(folder: Path, count: int) -> str:
    path = folder / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+1", "answer": str(i + 1)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_train_and_test_split_partition_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, 20)
    train = JsonlProblems(path=path, held_out=6)
    test = JsonlProblems(path=path, held_out=6, split=Split.test)
    ids = [[source[i].id for i in range(len(source))] for source in (train, test)]
    assert [len(part) for part in ids] == [14, 6]
    assert {*ids[0], *ids[1]} == {f"p{i}" for i in range(20)}


def test_a_held_out_problem_stays_held_out_in_another_order(tmp_path: Path) -> None:
    path = Path(_file(tmp_path, 20))
    before = {p.id for p in _all(JsonlProblems(path=str(path), held_out=6, split=Split.test))}
    other = tmp_path / "reversed.jsonl"
    other.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    assert {p.id for p in _all(JsonlProblems(path=str(other), held_out=6, split=Split.test))} == before


def test_a_test_split_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its test split has data.held_out=0 problems, 4 were asked for"):
        JsonlProblems(path=_file(tmp_path, 20), split=Split.test, size=4)
    with pytest.raises(ValueError, match=r"held_out must leave some to train on, got 20 of 20"):
        len(JsonlProblems(path=_file(tmp_path, 20), held_out=20))


def _all(source: JsonlProblems) -> list:  # type: ignore[type-arg]  # of Problem
    return [source[i] for i in range(len(source))]
