"""Main effects and interactions of a factorial sweep, with scores whose effects are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tokensweep_analysis.effects import INTERACTIONS, MAIN
from tokensweep_analysis.metrics import AVERAGE
from tokensweep_analysis.page.document import to_html
from tokensweep_analysis.report import to_compact_markdown, to_markdown
from tokensweep_analysis.tables import Comparison, compare

Make = Callable[..., None]

# Correct of 4 samples on each of three questions, by arm and seed. Means over 24 samples of an arm:
# none 6, a 12, b 10, a+b 20. In points of 100: 25, 50, 41 2/3, 83 1/3.
_CORRECT = {
    "none": ([1, 1, 1], [0, 2, 1]),
    "a": ([2, 2, 2], [2, 3, 1]),
    "b": ([1, 2, 2], [2, 2, 1]),
    "a+b": ([3, 4, 3], [4, 4, 2]),
}
_FACTORS = {"a": ["a", "a+b"], "b": ["b", "a+b"]}


def factorial(
    store: Path, make_run: Make, make_sweep: Make, *, without: tuple[str, int] | None = None
) -> Comparison:
    """The comparison of the runs above; ``without`` leaves out a run."""
    entries = [(arm, seed, f"{arm}{seed}") for arm in _CORRECT for seed in (0, 1)]
    for arm, seed, run_id in entries:
        if (arm, seed) != without:
            make_run(store, run_id, correct=_CORRECT[arm][seed], seed=seed)
    make_sweep(store, [each for each in entries if each[:2] != without], baseline="none", factors=_FACTORS)
    return compare(store, "demo")


def test_effects_are_differences_of_means_over_half_of_the_arms(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    # a: (50 + 83.3) / 2 - (25 + 41.7) / 2 = 33.3; b: (41.7 + 83.3) / 2 - (25 + 50) / 2 = 25.
    # a x b: (25 + 83.3) / 2 - (50 + 41.7) / 2 = 8.3: with b, a gives 41.7 instead of 25, half is 8.3.
    comparison = factorial(tmp_path, make_run, make_sweep)
    found = {each.arm: each for each in comparison.effects if each.metric == AVERAGE}
    assert {name: each.estimate.value for name, each in found.items()} == pytest.approx(
        {"a": 1 / 3, "b": 1 / 4, "a x b": 1 / 12}
    )
    assert {name: each.baseline for name, each in found.items()} == {
        "a": MAIN,
        "b": MAIN,
        "a x b": INTERACTIONS,
    }


def test_an_effect_is_paired_by_question_and_seed(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    # Seed 0, effect of a: per question 3/8, 3/8, 2/8, as (2+3-1-1) / 8; seed 1: 4/8, 3/8, 1/8.
    # Means by seed are both 1/3, so all variance comes from questions.
    comparison = factorial(tmp_path, make_run, make_sweep)
    effect = next(each for each in comparison.effects if each.arm == "a" and each.metric == AVERAGE)
    assert (effect.estimate.num_runs, effect.estimate.num_questions) == (2, 3)
    assert effect.estimate.low < 1 / 3 < effect.estimate.high


def test_families_are_adjusted_by_themselves(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    comparison = factorial(tmp_path, make_run, make_sweep)
    by_name = {each.arm: each for each in comparison.effects if each.metric == AVERAGE}
    smallest = min(by_name["a"].p_value, by_name["b"].p_value)
    assert min(by_name["a"].p_holm, by_name["b"].p_holm) == pytest.approx(min(2 * smallest, 1))
    assert by_name["a x b"].p_holm == by_name["a x b"].p_value


def test_a_seed_that_an_arm_lacks_is_left_out_of_all(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    # Seed 0 alone: a is (6 + 10) / 24 - (3 + 5) / 24 = 1/3
    comparison = factorial(tmp_path, make_run, make_sweep, without=("b", 1))
    effect = next(each for each in comparison.effects if each.arm == "a" and each.metric == AVERAGE)
    assert effect.estimate.value == pytest.approx(1 / 3)
    assert effect.estimate.num_runs == 1


def test_without_an_arm_there_are_no_effects_and_the_report_says_why(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    for arm in ("none", "a", "b"):
        make_run(tmp_path, f"{arm}0", correct=_CORRECT[arm][0])
    entries = [(arm, 0, f"{arm}0") for arm in _CORRECT]
    (tmp_path / "runs" / "a+b0").mkdir(parents=True)
    make_sweep(tmp_path, entries, baseline="none", factors=_FACTORS)
    comparison = compare(tmp_path, "demo")
    assert comparison.effects == ()
    assert "No effects for ops ops: no run of a+b has finished" in to_markdown(comparison)


def test_effects_stand_in_the_report_and_on_the_page(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    comparison = factorial(tmp_path, make_run, make_sweep)
    text = to_markdown(comparison)
    assert "| a x b | +8.3 [" in text
    assert "An interaction is half of how much" in text
    page = to_html(comparison)
    assert "Main effects and interactions" in page
    assert "Effects, ops, avg@n, points: a +33.3" in page


def test_a_sweep_with_arms_has_no_effects(store: Path) -> None:
    comparison = compare(store, "demo")
    assert (comparison.effects, comparison.effects_note) == ((), "")


def test_a_setting_without_an_arm_of_the_design_has_no_effects_and_the_others_have(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    whole = [("ops", arm, seed, f"{arm}{seed}") for arm in _CORRECT for seed in (0, 1)]
    part = [("easy", arm, seed, f"{arm}{seed}") for arm in ("none", "a") for seed in (0, 1)]
    for _, arm, seed, run_id in whole:
        make_run(tmp_path, run_id, correct=_CORRECT[arm][seed], seed=seed)
    make_sweep(tmp_path, [each[1:] for each in whole], baseline="none", factors=_FACTORS)
    path = tmp_path / "sweeps" / "demo" / "sweep.json"
    content = json.loads(path.read_text())
    by_run = {entry["run_id"]: entry for entry in content["runs"]}
    content["runs"] = [{**by_run[run_id], "setting": setting} for setting, _, _, run_id in (*whole, *part)]
    path.write_text(json.dumps(content))
    comparison = compare(tmp_path, "demo")
    assert {each.setting for each in comparison.effects} == {"ops"}
    assert "easy ops: a+b, b of the design are not planned there" in comparison.effects_note


def test_a_readme_has_the_effects_on_the_mean(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    text = to_compact_markdown(factorial(tmp_path, make_run, make_sweep))
    assert text.count("| effect | avg@n |") == 1
    assert "| a x b | +8.3 " in text
    assert text.count("| effect |") == 1  # none on pass@k
