"""A page draws few arms, the right ones, and no two of them alike."""

from __future__ import annotations

from dataclasses import replace

from tests.analysis.page.made import MEAN, a_comparison, a_judgement, a_row, an_estimate

from tokensweep_analysis.claims import POOLED, Verdict
from tokensweep_analysis.metrics import metrics_of
from tokensweep_analysis.page.selection import (
    MAX_ARMS,
    drawn_arms,
    left_out,
    marked,
    ranked,
    sections,
    spread,
)
from tokensweep_analysis.page.svg import looks
from tokensweep_analysis.sections import shown_metrics


def _arms(number: int) -> list[str]:
    """``all`` and arms that get better and better."""
    return ["all", *(f"arm{place:02d}" for place in range(1, number))]


def test_few_arms_are_all_drawn_in_the_order_of_the_sweep() -> None:
    comparison = a_comparison([a_row(arm) for arm in _arms(MAX_ARMS + 1)])
    assert drawn_arms(comparison) == tuple(_arms(MAX_ARMS + 1))
    assert left_out(comparison) == ""


def test_of_many_arms_the_baseline_and_the_best_are_drawn() -> None:
    arms = _arms(40)
    rows = [a_row(arm, results={MEAN: an_estimate(place / 100)}) for place, arm in enumerate(arms)]
    comparison = a_comparison(rows)
    assert drawn_arms(comparison) == ("all", *arms[-MAX_ARMS:])
    assert left_out(comparison).startswith("Plots show 13 of 40 arms")


def test_arms_of_claims_are_drawn_however_bad_they_are() -> None:
    arms = ["all", "top20", *_arms(40)[1:]]
    rows = [a_row(arm, results={MEAN: an_estimate(place / 100)}) for place, arm in enumerate(arms)]
    drawn = drawn_arms(a_comparison(rows, judgements=(a_judgement(Verdict.refuted),)))
    assert drawn[:2] == ("all", "top20")
    assert len(drawn) == MAX_ARMS + 1


def test_no_two_drawn_arms_look_alike_without_colour() -> None:
    styles = looks(_arms(MAX_ARMS + 1), "all")
    assert len({(look.marker, look.dashes) for look in styles.values()}) == MAX_ARMS + 1


def test_pooled_benchmarks_stand_first_in_their_setting() -> None:
    rows = [a_row("all", "aime24"), a_row("all", POOLED), a_row("all", "ops", setting="ops")]
    assert [section.title for section in sections(a_comparison(rows))] == [
        "qwen: all benchmarks pooled",
        "qwen: aime24",
        "ops",
    ]


def test_arms_without_results_stand_last() -> None:
    rows = [
        a_row("none"),
        a_row("low", results={MEAN: an_estimate(0.1)}),
        a_row("high", results={MEAN: an_estimate(0.2)}),
    ]
    assert [row.arm for row in ranked(rows)] == ["high", "low", "none"]


def test_tables_have_the_ends_of_the_curve_and_the_strictest_of_the_others() -> None:
    shown = shown_metrics(metrics_of([1, 2, 4, 8], [0.5, 0.9]))
    assert list(map(str, shown)) == ["avg@n", "pass@8", "maj@8", "pass^8", "cover@0.5", "cover@0.9"]


def test_a_curve_is_marked_at_powers_of_two_and_at_its_end() -> None:
    assert marked(metrics_of(range(1, 11), [])[:10]) == [0, 1, 3, 7, 9]


def test_a_pooled_table_names_its_benchmarks() -> None:
    rows = [
        a_row("all", "aime24"),
        a_row("all", "aime25"),
        a_row("all", POOLED),
        a_row("all", "ops", setting="ops"),
    ]
    assert [section.pooled for section in sections(a_comparison(rows))] == [("aime24", "aime25"), (), (), ()]


def test_a_band_is_never_mixed_with_pointwise_intervals() -> None:
    # The band has k = 1 and 4, pointwise intervals would be there for k = 1, 2, 3 and 4.
    curve = metrics_of(range(1, 5), [])[:4]
    band = {curve[0]: (0.3, 0.7), curve[3]: (0.4, 0.8)}
    row = a_row("all", results={metric: an_estimate(0.5, 0.125) for metric in curve})
    assert spread(replace(row, band=band)) == band
    assert spread(row) == dict.fromkeys(curve, (0.375, 0.625))
