"""The shipped options of the group ``data`` compose, build, and say what they lack."""

from __future__ import annotations

import re

import pytest

from tokensweep.compose import register_components
from tokensweep.data.catalogue import is_benchmark, known_sets
from tokensweep.data.convert import KINDS
from tokensweep.paths import conf_dir
from tokensweep.problems.jsonl import JsonlProblems

register_components()

BENCHMARKS = {
    **{"aime24": 30, "aime25": 30, "aime26": 30, "amc23": 40, "brumo25": 30, "gsm8k_test": 1319},
    **{"hmmt_feb25": 30, "hmmt_feb26": 33, "hmmt_nov25": 30, "math500": 500},
}
TRAINING = ("dapo_math_17k", "deepscaler", "gsm8k", "math")
PINNED = ("aime24", "aime25", "gsm8k_test", "hmmt_feb25", "math500")  # the sets whose answers are known here


@pytest.fixture(scope="module")
def sets() -> dict[str, JsonlProblems]:
    return known_sets()


def test_every_option_is_covered_here(sets: dict[str, JsonlProblems]) -> None:
    assert {file.stem for file in (conf_dir() / "data").glob("*.yaml")} == {*BENCHMARKS, *TRAINING, "mixed"}
    assert set(sets) == {*BENCHMARKS, *TRAINING}


@pytest.mark.parametrize("name", [*BENCHMARKS, *TRAINING])
def test_a_set_knows_its_size_its_origin_and_asks_for_a_box(
    name: str, sets: dict[str, JsonlProblems]
) -> None:
    source = sets[name]
    assert (source.name, source.num_problems) == (name, BENCHMARKS.get(name))
    assert is_benchmark(name) is (name in BENCHMARKS)
    assert r"\boxed{" in source.instruction
    assert source.date
    assert source.license
    assert source.checked
    assert source.hub_rows in KINDS
    assert re.fullmatch(r"[\w-]+/[\w.-]+", source.hub)
    assert re.fullmatch("[0-9a-f]{40}", source.revision or "0" * 40)
    assert bool(re.fullmatch("[0-9a-f]{64}", source.answers)) is (name in PINNED)


@pytest.mark.parametrize("name", [*BENCHMARKS, *TRAINING])
def test_a_set_ships_without_problems_and_says_how_to_get_them(
    name: str, sets: dict[str, JsonlProblems]
) -> None:
    with pytest.raises(
        ValueError, match=rf"{name} has no file: run `tokensweep data fetch {name}` on a mach"
    ):
        sets[name].check()


def test_aime_answers_are_the_integers_from_0_to_999(sets: dict[str, JsonlProblems]) -> None:
    sizes = {name: source.answer_space for name, source in sets.items() if source.answer_space}
    assert sizes == {"aime24": 1000, "aime25": 1000, "aime26": 1000}
