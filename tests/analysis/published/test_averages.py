"""A printed average is recomputed from its cells."""

from __future__ import annotations

from collections.abc import Callable

from tokensweep_analysis.published.averages import AMBIGUOUS, OTHER_COUNT, check_averages
from tokensweep_analysis.published.reader import Cell

Read = Callable[..., tuple[Cell, ...]]


def _arm(average: str, name: str = "Avg.", **cells: str) -> list[dict[str, str]]:
    rows = [{"benchmark": benchmark, "value": value} for benchmark, value in cells.items()]
    return [*rows, {"benchmark": name, "value": average}]


def test_an_average_within_rounding_passes(read: Read) -> None:
    # Cells and average may each be off by 0.05: 30.1 can be the mean of 40.049 and 20.049.
    checked = check_averages(read(*_arm("30.1", AIME24="40.0", AIME25="20.0")))
    assert checked.findings == ()
    assert checked.num_checked == 1


def test_an_average_beyond_rounding_is_a_slip(read: Read) -> None:
    (found,) = check_averages(read(*_arm("30.2", AIME24="40.0", AIME25="20.0"))).findings
    assert (found.printed, found.expected, found.lines) == ("30.2", "30.00", (4,))


def test_a_mean_weighted_by_questions_is_recognised(read: Read) -> None:
    # (30 x 40 + 500 x 80) / 530 = 77.74
    (found,) = check_averages(read(*_arm("77.7", AIME24="40.0", MATH500="80.0"))).findings
    assert "weighted by questions (30 + 500) is 77.74 and fits" in found.text


def test_the_average_is_over_cells_of_its_own_statistic(read: Read) -> None:
    rows = [
        {"benchmark": benchmark, "metric": metric, "value": value}
        for benchmark, metric, value in (
            ("AIME24", "avg@32 (%)", "40.0"),
            ("AIME24", "pass@32 (%)", "80.0"),
            ("MATH500", "avg@4 (%)", "60.0"),
            ("mean of 2", "avg@k mean (%)", "50.0"),
        )
    ]
    checked = check_averages(read(*rows))
    assert (checked.findings, checked.num_checked) == ((), 1)


def test_a_mixed_average_takes_one_cell_per_benchmark(read: Read) -> None:
    rows = [
        {"benchmark": "AIME25", "metric": "pass@8 (%)", "k": "8", "value": "30.0"},
        {"benchmark": "MATH500", "metric": "pass@1 (%)", "value": "88.0"},
        {"benchmark": "mean of 2", "metric": "mean (mixed, %)", "value": "58.0"},
    ]
    (found,) = check_averages(read(*rows)).findings
    assert found.expected == "59.00"


def test_an_average_over_other_benchmarks_is_counted_not_judged(read: Read) -> None:
    checked = check_averages(read(*_arm("90.0", "mean of 5", AIME24="40.0", AIME25="20.0")))
    assert (checked.findings, checked.skipped) == ((), ((OTHER_COUNT, 1),))


def test_two_cells_of_one_benchmark_are_counted_not_judged(read: Read) -> None:
    rows = [
        {"benchmark": "AIME24", "metric": "avg@8 (%)", "value": "40.0"},
        {"benchmark": "AIME24", "metric": "avg@16 (%)", "value": "41.0"},
        {"benchmark": "MATH500", "metric": "avg@4 (%)", "value": "80.0"},
        {"benchmark": "Avg.", "metric": "avg@k mean (%)", "value": "10.0"},
    ]
    assert check_averages(read(*rows)).skipped == ((AMBIGUOUS, 1),)
