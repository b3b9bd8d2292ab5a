"""A printed accuracy must be a whole number of correct answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokensweep_analysis.published.grid import NO_SAMPLES, NO_SIZE, TOO_FINE, check_grid
from tokensweep_analysis.published.reader import Cell

Read = Callable[..., tuple[Cell, ...]]


def _row(value: str, **changes: str) -> dict[str, str]:
    return {"value": value, "variant": value, **changes}


def test_multiples_of_one_in_thirty_pass(read: Read) -> None:
    # 11 / 30 = 36.67, 12 / 30 = 40.00, 13 / 30 = 43.33
    checked = check_grid(read(_row("36.7"), _row("40.0"), _row("43.3")))
    assert checked.findings == ()
    assert checked.num_checked == 3


def test_what_thirty_greedy_answers_cannot_give_is_a_slip_with_its_neighbours(read: Read) -> None:
    (found,) = check_grid(read(_row("36.7"), _row("35.0"))).findings
    assert found.is_slip
    assert found.lines == (3,)
    assert "35.0 cannot come from 30 questions: nearest are 33.33 and 36.67" in found.text


def test_samples_make_the_grid_finer(read: Read) -> None:
    # 268 / 480 = 55.833, 269 / 480 = 56.042
    (found,) = check_grid(
        read(_row("55.83", metric="avg@16 (%)"), _row("55.90", metric="avg@16 (%)"))
    ).findings
    assert "30 questions x 16 samples" in found.text
    assert "55.833 and 56.042" in found.text


def test_another_number_of_questions_is_named_when_it_explains_all(read: Read) -> None:
    # 2, 3, 5 of 27 are 7.41, 11.11, 18.52; 9 and 10 of 30 are 30.0 and 33.3.
    values = ("7.4", "11.1", "18.5", "30.0", "33.3")
    (found,) = check_grid(read(*(_row(value, metric="pass@8 (%)", k="8") for value in values))).findings
    assert found.is_slip
    assert found.printed == "7.4, 11.1, 18.5"
    assert "all fit 27 questions, while 2 other numbers of the column fit 30" in found.text


def test_one_value_off_the_grid_of_pass_at_k_is_no_slip(read: Read) -> None:
    # Some number of questions fits one value by chance, and more samples than k have no grid.
    (found,) = check_grid(read(_row("18.5", metric="pass@8 (%)", k="8"))).findings
    assert not found.is_slip
    assert "possible if pass@8 is estimated from more than 8 samples per question" in found.text


def test_baseline_values_without_a_row_are_checked_too(read: Read) -> None:
    (found,) = check_grid(read(_row("40.0", baseline_value="35.0"))).findings
    assert found.printed == "35.0"


def test_the_other_size_of_a_benchmark_is_a_note(read: Read) -> None:
    # 52, 40, 75 of 83 are 62.65, 48.19, 90.36
    rows = [_row(value, benchmark="AMC23") for value in ("62.7", "48.2", "90.4")]
    (found,) = check_grid(read(*rows)).findings
    assert not found.is_slip
    assert "every number of the column fits 83" in found.text


def test_rows_from_two_versions_of_a_benchmark_are_a_note(read: Read) -> None:
    # 279 / 675 = 41.33, but 278 and 279 / 674 = 41.25 and 41.39; 300 / 674 = 44.51, but 300 / 675 = 44.44
    rows = [_row(value, benchmark="OlympiadBench") for value in ("41.3", "44.5")]
    (found,) = check_grid(read(*rows)).findings
    assert not found.is_slip
    assert "44.5 fits 674, which this benchmark is also used with" in found.text


def test_pass_at_1_of_an_arm_with_pass_at_256_is_no_single_draw(read: Read) -> None:
    # 34.5 % of 500 is 172.5: impossible in one draw each, possible in 256.
    alone = {"value": "34.5", "benchmark": "MATH500", "metric": "pass@1 (%)", "k": "1"}
    (found,) = check_grid(read(alone)).findings
    assert not found.is_slip
    many = {"value": "96.2", "benchmark": "MATH500", "metric": "pass@256 (%)", "k": "256"}
    assert check_grid(read(alone, many)).findings == ()


def test_means_over_training_runs_have_as_many_more_answers(read: Read) -> None:
    # 84.9 % of 500 is 424.5; 1273 of 1500 are 84.87 %.
    once = _row("84.9", benchmark="MATH500", metric="avg@1 (%)")
    assert len(check_grid(read(once)).findings) == 1
    assert check_grid(read({**once, "source_note": "3 training seeds"})).findings == ()


def test_a_value_that_was_cut_off_is_named(read: Read) -> None:
    # 817 / 1280 = 63.828; 1176 / 1280 = 91.875
    rows = [_row(value, benchmark="AMC23", metric="avg@32 (%)") for value in ("63.82", "91.88")]
    (found,) = check_grid(read(*rows)).findings
    assert "63.82 would fit if cut instead of rounded" in found.text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"benchmark": "MATH500", "metric": "avg@16 (%)"}, TOO_FINE),  # 8,000 answers, 0.0125 points apart
        ({"benchmark": "Our own exam"}, NO_SIZE),
        ({"metric": "accuracy (%)"}, NO_SAMPLES),
    ],
)
def test_what_cannot_be_checked_is_counted_by_reason(read: Read, row: dict[str, str], reason: str) -> None:
    checked = check_grid(read({"value": "35.1", **row}))
    assert checked.findings == ()
    assert checked.skipped == ((reason, 1),)
