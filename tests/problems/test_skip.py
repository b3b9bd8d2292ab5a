"""What is skipped is left to others: no problem behind it is one of theirs, and nothing else changes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.identity import digest, identity_of
from tokensweep.problems.countdown import Countdown
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.ops import Ops
from tokensweep.problems.order import Order
from tokensweep.problems.procedural import Split
from tokensweep.problems.protocol import Problem, ProblemSource
from tokensweep.problems.reasoning_gym import ReasoningGym
from tokensweep.registry import build, component

register_components()

_HELD_OUT = 24  # of a file's 40 problems
Make = Callable[..., ProblemSource]


@pytest.fixture(params=["ops", "order", "countdown", "reasoning_gym", "jsonl"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Sources of one kind with a given split, size and skip."""
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+1", "answer": str(i + 1)} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def jsonl(**fields: Any) -> JsonlProblems:
        return JsonlProblems(path=str(path), held_out=_HELD_OUT, **fields)

    def gym(**fields: Any) -> ReasoningGym:
        return ReasoningGym(family="products", **fields)

    kinds: dict[str, Make] = {
        "ops": Ops,
        "order": Order,
        "countdown": Countdown,
        "reasoning_gym": gym,
        "jsonl": jsonl,
    }
    return kinds[request.param]


def _all(source: ProblemSource) -> list[Problem]:
    return [source[index] for index in range(len(source))]


def test_what_one_source_skips_another_can_have(make: Make) -> None:
    rng = random.Random(0)
    for _ in range(8):
        first = rng.randint(1, 12)
        rest = rng.randint(1, _HELD_OUT - first)
        seen, fresh = make(split=Split.test, size=first), make(split=Split.test, size=rest, skip=first)
        fresh.check()
        assert _all(seen) + _all(fresh) == _all(make(split=Split.test, size=first + rest))
        assert len(fresh) == rest
        assert not {p.id for p in _all(seen)} & {p.id for p in _all(fresh)}
        assert not {p.prompt for p in _all(seen)} & {p.prompt for p in _all(fresh)}
        assert seen.content_hash() != fresh.content_hash()


def test_no_problem_of_the_test_split_is_trained_on_whatever_is_skipped(make: Make) -> None:
    trained = {problem.prompt for problem in _all(make(size=12))}
    assert not trained & {problem.prompt for problem in _all(make(split=Split.test, size=12, skip=12))}


def test_fewer_than_no_problems_cannot_be_skipped(make: Make) -> None:
    with pytest.raises(ValueError, match="skip must be at least 0, got -1"):
        make(skip=-1)


def test_a_split_without_enough_problems_behind_what_is_skipped_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+1", "answer": str(i + 1)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"data.held_out=8 problems, 5 were asked for behind the first 4"):
        JsonlProblems(path=str(path), held_out=8, split=Split.test, size=5, skip=4)
    whole = JsonlProblems(path=str(path), size=20, skip=20)
    with pytest.raises(ValueError, match="has 30 train problems, but 20 were asked for behind the first 20"):
        len(whole)
    # One step: 10 * 3 * 10 = 300 prompts, about a fifth of them in the test split.
    with pytest.raises(ValueError, match=r"test problems, but 130 were asked for \(skipped ones count\)"):
        Ops(steps=1, split=Split.test, size=30, skip=100).check()


def test_the_held_out_suite_goes_on_where_another_one_ended() -> None:
    def suite(*overrides: str) -> ProblemSource:
        frozen = freeze_run(["data=countdown", "data.skip=3", *overrides])
        source: ProblemSource = build(frozen["eval"]["suites"]["countdown"])
        return source

    both = _all(suite("eval.held_out=20"))
    assert _all(suite("eval.held_out=12")) == both[:12]  # what training skips is of another split
    assert _all(suite("eval.held_out=8", "eval.held_out_skip=12")) == both[12:]


def test_what_is_skipped_in_an_evaluation_is_no_part_of_a_run() -> None:
    def identity(*overrides: str) -> str:
        return digest(identity_of(freeze_run(overrides)))

    assert identity("eval.held_out_skip=128") == identity() == identity("data.skip=0")
    assert identity("data.skip=1") != identity()


def test_a_source_that_knows_no_skip_cannot_skip() -> None:
    @component("data", "unskipping")
    @dataclass(frozen=True)
    class Unskipping:
        name: str = "unskipping"
        split: Split = Split.train
        size: int = 4
        max_tokens: int = 8

    suites = freeze_run(["data=unskipping", "eval.held_out=3"])["eval"]["suites"]
    assert suites["unskipping"]["size"] == 3
    with pytest.raises(ValueError, match=r"eval.held_out_skip must be 0 for data/unskipping, .* got 2"):
        freeze_run(["data=unskipping", "eval.held_out_skip=2"])
    with pytest.raises(ValueError, match=r"eval.held_out_skip must be at least 0, got -1"):
        freeze_run(["eval.held_out_skip=-1"])
