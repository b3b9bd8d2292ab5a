"""Fetching writes a whole, checked file or nothing; the hub is a fake here and was not reached elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tokensweep.data.fetch import Download, Downloaded, fetch, from_hub, manifest_of
from tokensweep.problems.checks import AnswerForm
from tokensweep.problems.jsonl import JsonlProblems

SET = JsonlProblems(name="tiny_set", hub="owner/tiny", num_problems=2, answer_form=AnswerForm.aime)
ROWS = [{"problem": "1 + 1?", "answer": 2}, {"problem": "1 + 2?", "answer": 3}]


def hub(*rows: dict[str, object], commit: str = "c" * 40) -> Download:
    return lambda source: Downloaded(commit=commit, rows=rows)


def unreachable(source: JsonlProblems) -> Downloaded:
    raise ValueError("the hub was not reached")


def test_a_fetched_set_is_read_back_and_its_origin_lies_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "data" / "tiny_set.jsonl"
    told = fetch(SET, target, force=False, download=hub(*ROWS)).told
    assert told == "2 problems from 2 rows of owner/tiny at cccccccccccc"
    source = replace(SET, path=str(target))
    source.check()
    assert [source[i].answer for i in range(2)] == ["2", "3"]
    manifest = json.loads(manifest_of(target).read_text())
    assert (manifest["hub"], manifest["revision"], manifest["problems"]) == ("owner/tiny", "c" * 40, 2)
    assert {path.name for path in target.parent.iterdir()} == {"tiny_set.jsonl", "tiny_set.source.json"}


def test_a_set_that_is_there_needs_no_hub(tmp_path: Path) -> None:
    target = tmp_path / "tiny_set.jsonl"
    fetch(SET, target, force=False, download=hub(*ROWS))
    assert "already there" in fetch(SET, target, force=False, download=unreachable).told
    with pytest.raises(ValueError, match="not reached"):  # another commit is asked for
        fetch(replace(SET, revision="d" * 40), target, force=False, download=unreachable)


def test_a_file_that_differs_stays_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "tiny_set.jsonl"
    target.write_text("mine\n")
    with pytest.raises(ValueError, match=r"is there and differs .* force=true replaces it"):
        fetch(SET, target, force=False, download=hub(*ROWS))
    assert target.read_text() == "mine\n"
    fetch(SET, target, force=True, download=hub(*ROWS))
    assert "1 + 1?" in target.read_text()


@pytest.mark.parametrize(
    ("download", "message"),
    [
        (hub(ROWS[0]), r"is not tiny_set: it must have 2 problems, got 1\. Nothing was written"),
        (hub(ROWS[0], {"problem": "x", "answer": "1/2"}), "integers in 0..999, got 1 others"),
        (hub({"text": "x"}), "must have a column problem"),
        (unreachable, "not reached"),
    ],
)
def test_a_failed_fetch_writes_nothing(tmp_path: Path, download: Download, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(SET, tmp_path / "tiny_set.jsonl", force=False, download=download)
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_a_dataset_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jsonl has no dataset on the hub: bring a JSONL file"):
        fetch(JsonlProblems(), tmp_path / "x.jsonl", force=False, download=hub(*ROWS))


def _raising(error: Exception) -> Callable[..., None]:
    def info(*_: object, **__: object) -> None:
        raise error

    return info


def test_an_unreachable_hub_is_one_sentence_that_says_how_to_bring_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HfApi, "dataset_info", _raising(ConnectionError("Name or service not known")))
    with pytest.raises(
        ValueError, match=r"the hub was not reached .*data fetch tiny_set to=\.` on a machine"
    ):
        from_hub(SET)
