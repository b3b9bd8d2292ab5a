"""Rows shaped as each dataset's card says become problems; all texts here are made up."""

from __future__ import annotations

import pytest

from tokensweep.data.convert import Row, convert, last_box

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def dapo(text: str, answer: str, number: int) -> Row:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": DAPO.format(text)}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": str(number)},
    }


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        # MathArena: the answer is int64 in AIME, text in HMMT and BRUMO
        ("columns", {"problem_idx": 3, "problem": "Find n.", "answer": 70}, ("s-3", "Find n.", "70")),
        (
            "columns",
            {"problem_idx": 4, "problem": "Find x.", "answer": r"\frac{1}{2}", "problem_type": ["Algebra"]},
            ("s-4", "Find x.", r"\frac{1}{2}"),
        ),
        # HuggingFaceH4/aime_2024
        (
            "columns",
            {"id": 60, "problem": "Find m.", "solution": "...", "answer": "025", "url": "u", "year": "2024"},
            ("s-60", "Find m.", "025"),
        ),
        # HuggingFaceH4/MATH-500
        (
            "columns",
            {"problem": "Find p.", "answer": "9", "unique_id": "test/number_theory/572.json"},
            ("s-number_theory-572", "Find p.", "9"),
        ),
        # mirrors of AMC 23: another name of the column, floats
        ("columns", {"question": "Find q.", "answer": 27.0}, ("s-00001", "Find q.", "27")),
        # openai/gsm8k
        (
            "gsm8k",
            {"question": "How many?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"},
            ("s-00001", "How many?", "1200"),
        ),
        # MATH
        (
            "math",
            {
                "problem": "Find r.",
                "level": "Level 5",
                "type": "Algebra",
                "solution": r"So $\boxed{\frac{3}{4}}$.",
            },
            ("s-00001", "Find r.", r"\frac{3}{4}"),
        ),
        ("dapo", dapo("Find s.\n\nIt is odd.", "34", 1), ("s-00001", "Find s.\n\nIt is odd.", "34")),
    ],
)
def test_a_row_becomes_a_problem(kind: str, row: Row, expected: tuple[str, str, str]) -> None:
    (problem,) = convert([row], kind=kind, name="s").problems
    assert (problem.id, problem.prompt, problem.answer) == expected


def test_copies_are_merged_and_contradictions_dropped() -> None:
    rows = [dapo(text, answer, 0) for text, answer in [("a", "1"), ("b", "2"), ("c", "5")] * 100]
    rows += [dapo("b", "3", 0), dapo(" $c$ ", "5", 0)]
    converted = convert(iter(rows), kind="dapo", name="s")
    assert [(p.prompt, p.answer) for p in converted.problems] == [("a", "1"), ("c", "5")]
    # 302 rows hold 3 problems; b has two answers.
    assert (converted.rows, converted.repeated, converted.disagreeing) == (302, 299, 1)


def test_a_row_without_an_answer_is_skipped_and_counted() -> None:
    rows: list[Row] = [
        {"problem": "a", "answer": ""},
        {"problem": "b", "answer": None},
        {"problem": "c", "answer": "1"},
    ]
    converted = convert(rows, kind="columns", name="s")
    assert ([p.prompt for p in converted.problems], converted.unanswered) == (["c"], 2)
    unmarked = [{"question": "q", "answer": "no mark"}, {"question": "r", "answer": "#### 1"}]
    assert convert(unmarked, kind="gsm8k", name="s").unanswered == 1


def test_ids_that_repeat_are_numbered() -> None:
    rows = [{"id": 1, "problem": "a", "answer": "1"}, {"id": 1, "problem": "b", "answer": "1"}]
    assert [p.id for p in convert(rows, kind="columns", name="s").problems] == ["s-1-00001", "s-1-00002"]


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        (
            "columns",
            [{"text": "a", "answer": "1"}],
            "must have a column problem or question, got text, answer",
        ),
        ("math", [{"problem": "a", "answer": "1"}], "must have a column solution, got problem, answer"),
        ("verl", [], "hub_rows must be one of columns, gsm8k, math, dapo, got 'verl'"),
        ("columns", [], "no problem with an answer in 0 rows"),
    ],
)
def test_rows_of_another_shape_are_refused(kind: str, rows: list[Row], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(rows, kind=kind, name="s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{3}", "3"),
        (r"the answer is $\boxed 5$.", "5"),
        (r"\boxed{6} and an open \boxed{7", "6"),
        ("none", ""),
    ],
)
def test_the_last_closed_box_counts(text: str, expected: str) -> None:
    assert last_box(text) == expected
