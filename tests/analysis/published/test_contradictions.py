"""A number is printed once, or always the same."""

from __future__ import annotations

from collections.abc import Callable

from tokensweep_analysis.published.contradictions import check_baselines, check_contradictions
from tokensweep_analysis.published.reader import Cell

Read = Callable[..., tuple[Cell, ...]]


def test_two_values_of_one_cell_are_a_slip_and_the_average_says_which_fits(read: Read) -> None:
    # (40.0 + 20.0) / 2 = 30.0
    rows = [
        {"variant": "p=-1", "value": "40.0"},
        {"variant": "p=-1", "value": "20.0", "benchmark": "AIME25"},
        {"variant": "p=-1", "value": "30.0", "benchmark": "Avg."},
        {"variant": "p=-1 (Table 1)", "value": "36.7"},
    ]
    (found,) = check_contradictions(read(*rows)).findings
    assert found.lines == (2, 5)
    assert "the printed average 30.0 (line 4) fits 40.0" in found.text


def test_the_same_number_with_fewer_decimals_is_no_contradiction(read: Read) -> None:
    checked = check_contradictions(read({"value": "36.7"}, {"value": "36.67", "variant": "(Table 2)"}))
    assert (checked.findings, checked.num_checked) == ((), 1)


def test_other_samples_another_arm_or_another_model_is_another_number(read: Read) -> None:
    rows = [
        {"value": "36.7"},
        {"value": "40.0", "metric": "avg@16 (%)"},
        {"value": "43.3", "variant": "top 20 %"},
        {"value": "46.7", "base_model": "M-32B"},
        {"value": "50.0", "benchmark": "AIME25"},
        {"value": "53.3", "paper": "Other paper"},
    ]
    assert check_contradictions(read(*rows)).findings == ()


def test_a_baseline_value_that_its_row_does_not_have_is_a_slip(read: Read) -> None:
    rows = [
        {"value": "40.0"},
        {"value": "43.3", "variant": "new", "baseline_value": "40.0"},
        {"value": "46.7", "variant": "newer", "baseline_value": "36.7"},
    ]
    (found,) = check_baselines(read(*rows)).findings
    assert found.is_slip
    assert (found.lines, found.printed, found.expected) == ((4,), "36.7", "40.0")


def test_a_baseline_value_of_any_row_passes(read: Read) -> None:
    rows = [
        {"value": "40.0"},
        {"value": "43.3", "variant": "new", "baseline_value": "40.0"},
        {"value": "46.7", "variant": "longer", "baseline_value": "43.3"},
    ]
    assert check_baselines(read(*rows)).findings == ()


def test_several_baselines_without_a_row_are_a_note(read: Read) -> None:
    rows = [
        {"value": "43.3", "variant": "new", "baseline_value": "40.0"},
        {"value": "46.7", "variant": "newer", "baseline_value": "36.7"},
    ]
    (found,) = check_baselines(read(*rows)).findings
    assert not found.is_slip
    assert "40.0 in line 2; 36.7 in line 3" in found.text
