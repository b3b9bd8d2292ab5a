"""Problem files: what loads, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokensweep.problems import Outcome
from tokensweep.problems.checks import AnswerForm
from tokensweep.problems.jsonl import JsonlProblems

ROW = {"id": "a", "problem": "What is 3 + 4?", "answer": "7"}


def write(folder: Path, *lines: str) -> str:
    file = folder / "set.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def rows(*changes: dict[str, object]) -> list[str]:
    return [json.dumps(ROW | change) for change in changes]


def test_a_problem_is_asked_with_its_instruction_and_graded_by_its_answer(tmp_path: Path) -> None:
    path = write(tmp_path, *rows({}, {"id": 2, "answer": 12}))
    source = JsonlProblems(path=path, instruction=r"{problem} Answer in \boxed{}.")
    assert len(source) == 2
    assert source.prompt_text(source[0]) == r"What is 3 + 4? Answer in \boxed{}."
    assert source.grade(source[1], r"\boxed{12.0}", "stop").outcome is Outcome.correct
    assert source[1].id == "2"


def test_a_line_separator_inside_a_problem_does_not_cut_the_line(tmp_path: Path) -> None:
    line = json.dumps(ROW | {"problem": "one\u2028two"}, ensure_ascii=False)
    assert JsonlProblems(path=write(tmp_path, line))[0].prompt == "one\u2028two"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        ([*rows({}), '{"id": "b", "prob'], r"line 2 is not valid JSON"),
        (rows({}, {}), r"line 2: id 'a' appears twice"),
        (['{"id": "a", "problem": "x"}'], "line 1 has no answer"),
        (["[1]"], "line 1 has no id, problem, answer"),
        (rows({"answer": ""}), "line 1: answer must be"),
        (rows({"answer": "$ $"}), "line 1: answer must be"),
        (rows({"answer": True}), "line 1: answer must be"),
        (rows({"answer": 1.5}), "line 1: answer must be"),
        (rows({"problem": " "}), "line 1: problem must be"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JsonlProblems(path=write(tmp_path, *lines)).check()


def test_a_benchmark_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    source = JsonlProblems(name="aime24", path=write(tmp_path, *rows({})), num_problems=30)
    with pytest.raises(ValueError, match="aime24 must have 30 problems, got 1"):
        source.check()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"answer": "1/2"}, {"answer_form": AnswerForm.aime}, "integers in 0..999, got 1 others: '1/2' of b"),
        ({}, {}, "each problem once, got 1 repeated: b and a"),
        ({"problem": "x"}, {"answers": "0" * 64, "hub": "a/b"}, r"the answers it is known for .*force=true"),
    ],
)
def test_a_file_that_is_not_the_set_it_should_be_is_refused(
    tmp_path: Path, changes: dict[str, object], options: dict[str, Any], message: str
) -> None:
    source = JsonlProblems(name="set", path=write(tmp_path, *rows({}, {"id": "b", **changes})), **options)
    with pytest.raises(ValueError, match=message):
        source.check()


def test_excluded_problems_are_dropped_whatever_their_ids_and_spelling(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    suite = write(tmp_path / "suite", *rows({"id": "other", "problem": "What is $3+4$?"}))
    path = write(tmp_path, *rows({}, {"id": "b", "problem": "What is 3 + 5?", "answer": "8"}))
    source = JsonlProblems(path=path, exclude=(suite,))
    assert ([source[i].id for i in range(len(source))], source.num_excluded) == (["b"], 1)
    assert source.content_hash() != JsonlProblems(path=path).content_hash()
    with pytest.raises(ValueError, match=r"data.exclude of jsonl must list files, but /none is none"):
        len(JsonlProblems(path=path, exclude=("/none",)))


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match=r"set\.jsonl must be text in UTF-8, but byte 1 is not"):
        len(JsonlProblems(path=str(tmp_path / "set.jsonl")))


def test_a_source_without_a_file_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"gsm8k has no file: give data\.path=FILE"):
        JsonlProblems(name="gsm8k").check()


def test_a_relative_path_is_refused_because_the_node_runs_elsewhere() -> None:
    with pytest.raises(ValueError, match="must be absolute"):
        len(JsonlProblems(path="set.jsonl"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"but .* is none"):
        JsonlProblems(path=str(tmp_path / "none.jsonl"))[0]


def test_an_instruction_without_the_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        JsonlProblems(instruction="Solve it.")


def test_content_hash_follows_rows_and_instruction_but_not_the_path(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    first = JsonlProblems(path=write(tmp_path, *rows({})))
    copy = JsonlProblems(path=write(tmp_path / "copy", *rows({"source": "elsewhere"})))
    assert first.content_hash() == copy.content_hash()
    other = JsonlProblems(path=first.path, instruction="Think. {problem}")
    assert other.content_hash() != first.content_hash()


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    source = JsonlProblems(path=write(tmp_path, *rows({})))
    assert len(source) == 1
    write(tmp_path, *rows({}, {"id": "b"}))
    assert len(source) == 2
