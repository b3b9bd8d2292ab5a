"""Own results stand beside printed ones, and say when they cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep_analysis.published.beside import lay_beside
from tokensweep_analysis.published.reader import Cell

Read = Callable[..., tuple[Cell, ...]]


@pytest.fixture
def exam(tmp_path: Path, make_run: Callable[..., None], make_sweep: Callable[..., None]) -> Path:
    """A store with one run on AIME24: 15 of 30 questions right in 4 of 4 samples, of model Org/M-7B."""
    make_run(tmp_path, "t0", correct=[4] * 15 + [0] * 15, suite="aime24")
    make_run(tmp_path, "a0", correct=[4] * 10 + [0] * 20, suite="aime24")
    runs = [
        {"setting": "", "arm": arm, "seed": 0, "run_id": run, "evals": {"aime24": f"e-{run}"}}
        for arm, run in (("all", "a0"), ("top20", "t0"))
    ]
    make_sweep(tmp_path, [], runs=runs)
    for run in ("a0", "t0"):
        _set_model(tmp_path, run, {"_component_": "model/hf", "path": "Org/M-7B"})
    return tmp_path


def _set_model(store: Path, run: str, model: dict[str, str]) -> None:
    path = store / "runs" / run / "plan.json"
    plan = read_json(path)
    plan["identity"]["model"] = model
    write_json(path, plan)


def _reasons(cells: Sequence[Cell], store: Path) -> list[str]:
    (pair,) = lay_beside(cells, store, "demo", names={"top20": "top 20 %"})
    return [str(reason) for reason in pair.reasons]


def _printed(**changes: str) -> dict[str, str]:
    return {"value": "40.0", "variant": "top 20 %", "metric": "avg@4 (%)", **changes}


def test_a_pair_that_agrees_in_all_is_comparable(read: Read, exam: Path) -> None:
    (pair,) = lay_beside(read(_printed()), exam, "demo", names={"top20": "top 20 %"})
    assert pair.is_comparable
    assert pair.own is not None
    assert pair.own.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"base_model": "M-32B"}, ["model Org/M-7B instead of M-32B"]),
        ({"benchmark": "AIME25"}, ["benchmark aime24 instead of AIME25"]),
        ({"benchmark": "AIME24 (15)"}, ["benchmark aime24 instead of AIME24 (15)"]),
        ({"metric": "avg@32 (%)"}, ["avg@4 instead of avg@32"]),
        ({"metric": "pass@8 (%)"}, ["no pass@8 here"]),
        ({"metric": "accuracy (%)"}, ["number of samples not printed"]),
        ({"metric": "pass@4 (%)"}, []),
    ],
)
def test_a_pair_that_differs_says_in_what(
    read: Read, exam: Path, changes: dict[str, str], reasons: list[str]
) -> None:
    assert _reasons(read(_printed(**changes)), exam) == reasons


def test_a_tiny_model_is_named(read: Read, exam: Path) -> None:
    _set_model(exam, "t0", {"_component_": "model/tiny"})
    assert _reasons(read(_printed()), exam) == ["model tiny instead of M-7B"]


def test_equal_names_need_no_map(read: Read, exam: Path) -> None:
    pairs = lay_beside(read(_printed(variant="Top-20")), exam, "demo", names={})
    assert [pair.arm for pair in pairs] == ["top20"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "got none of the same name: give --map ARM=VARIANT; arms are all, top20"),
        ({"top": "top 20 %"}, "--map must name an arm of demo, got 'top': arms are all, top20"),
        (
            {"top20": "top 30 %"},
            "--map must name a variant or method of the file, got 'top 30 %': it has top 20 %$",
        ),
    ],
)
def test_names_that_do_not_exist_are_refused(
    read: Read, exam: Path, names: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lay_beside(read(_printed()), exam, "demo", names=names)


def test_an_arm_mapped_to_averages_only_is_an_error(read: Read, exam: Path) -> None:
    cells = read(_printed(), _printed(variant="all tokens", benchmark="mean of 5"))
    with pytest.raises(ValueError, match="got 'all tokens' for 'all': it has averages and lengths only"):
        lay_beside(cells, exam, "demo", names={"top20": "top 20 %", "all": "all tokens"})
