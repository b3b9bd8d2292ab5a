"""The shipped options of the group ``data`` compose, build, and say what they lack."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tokensweep.paths import conf_dir
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.registry import build

COUNTS = {"gsm8k": None, "gsm8k_test": 1319, "math500": 500, "aime24": 30, "aime25": 30, "hmmt_feb25": 30}


def option(name: str) -> JsonlProblems:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = OmegaConf.to_container(compose(overrides=[f"+data={name}"]))
    assert isinstance(node, dict)
    source = build(node["data"])
    assert isinstance(source, JsonlProblems)
    return source


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_a_benchmark_knows_its_size_and_asks_for_a_box(name: str, count: int | None) -> None:
    source = option(name)
    assert (source.name, source.num_problems) == (name, count)
    assert r"\boxed{" in source.instruction


@pytest.mark.parametrize("name", COUNTS)
def test_a_benchmark_ships_without_problems_and_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has no file: give data\.path=FILE"):
        option(name).check()


def test_aime_answers_are_the_integers_from_0_to_999() -> None:
    sizes = {name: option(name).answer_space for name in COUNTS}
    assert {name: size for name, size in sizes.items() if size} == {"aime24": 1000, "aime25": 1000}


def test_every_option_is_covered_here() -> None:
    assert {file.stem for file in (conf_dir() / "data").glob("*.yaml")} == set(COUNTS)
