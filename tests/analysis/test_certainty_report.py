"""Stated confidences on their way from sample files to tables, MLflow's names and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tokensweep_analysis.claims import Verdict, parse_measure
from tokensweep_analysis.frames import ranking_frame
from tokensweep_analysis.metrics import CERTAINTY, Kind, Metric
from tokensweep_analysis.report import to_markdown
from tokensweep_analysis.runs import load_run
from tokensweep_analysis.samples import SCHEMA, next_file, read_samples, write_samples
from tokensweep_analysis.tables import compare

Make = Callable[..., Any]
Change = Callable[[dict[str, Any]], dict[str, Any]]


def rewrite(store: Path, run_id: str, change: Change) -> None:
    """Replace columns of all samples of a run, as a regrading does."""
    folder = store / "runs" / run_id / "evals" / f"ops-e-{run_id}"
    rows = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in read_samples([folder]).to_dict("records")
    ]
    write_samples(next_file(folder), [{**row, **change(row)} for row in rows])


def sure(right: float, wrong: float) -> Change:
    """Confidences by grade."""
    return lambda row: {"confidence": right if row["grade"] == "correct" else wrong}


def test_files_from_before_confidences_are_read(tmp_path: Path, make_row: Make) -> None:
    write_samples(tmp_path / "samples-000.parquet", [make_row(), make_row(sample_idx=1)])
    table = pq.read_table(tmp_path / "samples-000.parquet").drop_columns(["confidence"])
    pq.write_table(table, tmp_path / "samples-000.parquet")
    write_samples(tmp_path / "samples-001.parquet", [make_row(sample_idx=1, confidence=0.5)])
    frame = read_samples([tmp_path]).sort_values("sample_idx")
    assert list(frame.columns) == SCHEMA.names
    assert frame["confidence"].isna().tolist() == [True, False]


def test_a_comparison_has_what_confidences_are_worth(store: Path) -> None:
    # a0 has 4, 2 and 0 right of 4: 0.9 for right and 0.4 for wrong ones. Bin of 0.9: gap 0.1, half of the
    # samples; bin of 0.4: gap 0.4, the other half: 0.25. a1 has 4, 1, 1: the same halves.
    for run_id in ("a0", "a1"):
        rewrite(store, run_id, sure(0.9, 0.4))
    rewrite(store, "t0", sure(1.0, 0.0))
    comparison = compare(store, "demo")
    both, top = comparison.rows
    assert both.results[Metric(Kind.ece)].value == pytest.approx(0.25)
    assert both.results[Metric(Kind.brier)].value == pytest.approx((0.01 + 0.16) / 2)
    assert both.results[Metric(Kind.auroc)].value == 1
    assert both.results[Metric(Kind.overconfident_errors)].value == 0
    # Of four: two right at 1.8 against 0.8 win, one at 0.9 loses against 1.2: 1, 1, 0 and 1, 0, 0.
    assert both.results[Metric(Kind.weighted_maj_at, 4)].value == pytest.approx(0.5)
    assert both.stated_fraction == 1
    assert not set(map(Metric, CERTAINTY)) & set(top.results)  # t1 states nothing
    assert top.differences.keys() == {m for m in top.results if m in top.asked}
    frame = ranking_frame(comparison)
    assert set(frame[frame["arm"] == "all"]["metric"]) >= {
        "ece",
        "nll",
        "weighted_maj_at_4",
        "stated_fraction",
    }
    assert "ece" not in set(frame[frame["arm"] == "top"]["metric"])
    report = to_markdown(comparison)
    assert "| arm | stated % | ECE |" in report
    assert "ten bins" in report


def test_a_report_without_confidences_does_not_speak_of_them(store: Path) -> None:
    assert "ECE" not in to_markdown(compare(store, "demo"))
    assert not any("ece" in name for name in _metrics(store, "a0"))


def test_a_run_logs_them_by_suite(store: Path) -> None:
    rewrite(store, "a0", sure(0.9, 0.4))
    told = _metrics(store, "a0")
    assert told["ops/ece"] == pytest.approx(0.25)
    assert told["ops/selective_accuracy"] == 1
    assert told["ops/stated_fraction"] == 1
    # 6 samples in each bin: sqrt(2 / pi * 6 * 0.09) + sqrt(2 / pi * 6 * 0.24), of 12
    assert told["ops/ece_floor"] == pytest.approx((0.58632 + 0.95746) / 12, abs=1e-5)
    assert "ops/weighted_maj_at_4" in told


def _metrics(store: Path, run_id: str) -> dict[str, float]:
    (scored,) = load_run(store / "runs" / run_id).scored.values()
    return scored.metrics()


def judged(
    store: Path, make_run: Make, make_sweep: Make, *, unread: str = "", measure: str = "ops/ece"
) -> Any:
    """A claim that arm ``good`` is better calibrated than ``all``; a quarter of ``unread`` is unreadable."""
    entries = []
    for seed in range(3):
        for arm in ("all", "good"):
            run_id = f"{arm}{seed}"
            make_run(store, run_id, correct=[(3 * q + seed) % 5 for q in range(24)], seed=seed)
            entries.append((arm, seed, run_id))
            rewrite(store, run_id, sure(0.8, 0.3) if arm == "good" else sure(1.0, 0.9))
            if arm == unread:
                rewrite(store, run_id, lambda row: {"grade": "no_answer"} if row["sample_idx"] == 3 else {})
    claim = {"id": "c", "kind": "superiority", "contrast": "all - good", "metric": measure}
    make_sweep(store, entries, claims=[claim])
    (judgement,) = compare(store, "demo").judgements
    return judgement


def test_a_claim_may_be_about_calibration(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    judgement = judged(tmp_path, make_run, make_sweep)
    assert judgement.verdict is Verdict.reproduced
    assert judgement.claim.measure == "ops/ece"


def test_of_a_loss_the_arm_on_the_right_must_be_readable(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    judgement = judged(tmp_path / "good", make_run, make_sweep, unread="good")
    assert judgement.verdict is Verdict.inconclusive
    assert "of the answers of good are unreadable" in judgement.reason
    assert "unreadable" not in judged(tmp_path / "all", make_run, make_sweep, unread="all").reason


def test_a_claim_about_confidences_that_nobody_states_is_not_run(store: Path, make_sweep: Make) -> None:
    entries = [("all", 0, "a0"), ("all", 1, "a1"), ("top", 0, "t0"), ("top", 1, "t1")]
    claim = {"id": "c", "kind": "superiority", "contrast": "all - top", "metric": "ops/brier"}
    make_sweep(store, entries, claims=[claim])
    (judgement,) = compare(store, "demo").judgements
    assert judgement.verdict is Verdict.not_run
    assert "Brier needs samples that state a confidence, too few of those of all do" in judgement.reason


def test_a_metric_that_is_not_defined_is_left_out(store: Path) -> None:
    for run_id in ("a0", "a1"):
        rewrite(store, run_id, lambda row: {"grade": "correct", "confidence": 0.5})
    row = compare(store, "demo").rows[0]
    assert Metric(Kind.ece) in row.results
    assert Metric(Kind.auroc) not in row.results


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("pooled/ece", Metric(Kind.ece)),
        ("pooled/selective_accuracy", Metric(Kind.selective_accuracy)),
        ("pooled/weighted_maj_at_8", Metric(Kind.weighted_maj_at, 8)),
    ],
)
def test_certainty_has_names_that_claims_can_write(text: str, metric: Metric) -> None:
    assert parse_measure(text) == ("pooled", metric)
    assert text == f"pooled/{metric.key}"


@pytest.mark.parametrize("text", ["pooled/ece_10", "pooled/weighted_maj_at_0.5", "pooled/calibration"])
def test_names_of_nothing_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"cover_at_TAU, or where samples state a confidence weighted_maj_at_K"
    ):
        parse_measure(text)
