"""A comparison counts what is complete, pairs what is alike, and hides nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokensweep.ledger import Attempt
from tokensweep.sync import legal_name
from tokensweep_analysis.intervals import SHARE, Estimand, arm_estimate, difference_estimate
from tokensweep_analysis.metrics import Kind, Metric, metrics_of
from tokensweep_analysis.tables import Row, compare

Make = Callable[..., None]


def pass_at(k: int) -> Metric:
    return Metric(Kind.pass_at, k)


def _rows(store: Path) -> dict[str, Row]:
    return {row.arm: row for row in compare(store, "demo").rows}


def test_pass_at_k_is_the_mean_over_questions_and_runs_with_its_interval(store: Path) -> None:
    # Correct of 4 samples: 4, 2, 0 with seed 0 and 4, 1, 1 with seed 1; pass@4 is 1, 1, 0 and 1, 1, 1.
    row = _rows(store)["all"]
    expected = arm_estimate(np.array([[1.0, 0.5, 0.0], [1.0, 0.25, 0.25]]), limits=SHARE)
    assert row.results[pass_at(1)] == expected
    assert row.results[pass_at(4)].value == pytest.approx(5 / 6)
    assert (row.num_questions, row.num_samples, row.seeds) == (3, 4, (0, 1))
    assert row.results[pass_at(1)].estimand == Estimand.E4


def test_the_difference_to_the_baseline_is_paired_by_seed(store: Path) -> None:
    rows = _rows(store)
    own, baseline = [[1.0, 0.75, 0.25], [1.0, 0.5, 0.25]], [[1.0, 0.5, 0.0], [1.0, 0.25, 0.25]]
    expected = difference_estimate(np.array(own), np.array(baseline), seeds=[0, 1], baseline_seeds=[0, 1])
    assert rows["top"].differences[pass_at(1)] == expected
    assert rows["all"].differences == {}


def test_another_arm_may_be_the_baseline(store: Path) -> None:
    own, other = _rows(store)["top"].differences, compare(store, "demo", baseline="top").rows
    turned = {row.arm: row.differences for row in other}
    assert turned["all"][pass_at(1)].value == pytest.approx(-own[pass_at(1)].value)
    assert turned["top"] == {}
    with pytest.raises(ValueError, match="must be an arm of demo, got 'nope': it has all, top"):
        compare(store, "demo", baseline="nope")


def test_failed_and_missing_runs_are_counted_and_listed(store: Path) -> None:
    comparison = compare(store, "demo")
    row = comparison.rows[1]
    assert (row.arm, len(row.seeds), row.num_planned, row.num_failed) == ("top", 2, 4, 1)
    assert [(t.run_id, t.state) for t in comparison.troubles] == [("t2", "failed"), ("t3", "missing")]
    assert comparison.troubles[0].error.startswith("loss is NaN at step 3")


def test_costs_are_per_run_and_shares_are_means_over_steps(store: Path) -> None:
    row = _rows(store)["all"]
    assert row.kept_fraction == pytest.approx(0.2)
    assert row.generated_tokens == 400.0
    assert row.entropy_kept_fraction is None


def test_an_evaluation_that_is_not_in_the_ledger_does_not_count(store: Path, make_run: Make) -> None:
    make_run(store, "t3", correct=[4, 4, 4], seed=3)
    ledger = store / "runs" / "t3" / "attempts" / "000" / "events.jsonl"
    ledger.write_text(
        "".join(line for line in ledger.read_text().splitlines(True) if "evaluated" not in line)
    )
    assert _rows(store)["top"].seeds == (0, 1)


def test_samples_beyond_the_completed_number_do_not_count(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "a0", correct=[1, 1], num_samples=2, k=(1,))
    ledger = tmp_path / "runs" / "a0" / "attempts" / "000" / "events.jsonl"
    ledger.write_text(ledger.read_text().replace('"num_samples":2', '"num_samples":1'))
    make_sweep(tmp_path, [("all", 0, "a0")])
    assert (
        _rows(tmp_path)["all"].results[pass_at(1)].value == 1.0
    )  # the first sample of each question is the correct one


def test_arms_graded_differently_are_not_compared(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "a0", correct=[1, 2])
    make_run(tmp_path, "t0", correct=[2, 3], columns={"grader": "exact 2"})
    make_sweep(tmp_path, [("all", 0, "a0"), ("top", 0, "t0")])
    row = _rows(tmp_path)["top"]
    assert row.differences == {}
    assert "not comparable: evaluations of ops differ in grader" in row.remark
    assert row.results[pass_at(1)].value == pytest.approx(5 / 8)


def test_runs_of_one_arm_that_were_sampled_differently_are_not_averaged(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "a0", correct=[1, 2])
    make_run(tmp_path, "a1", correct=[2, 3], seed=1, columns={"decode_hash": "warmer"})
    make_sweep(tmp_path, [("all", 0, "a0"), ("all", 1, "a1")])
    row = _rows(tmp_path)["all"]
    words = "decoding (temperature, top_p, max_tokens, template or engine)"
    assert (row.results, row.remark) == ({}, f"not comparable: evaluations of ops differ in {words}")


def test_one_seed_is_a_claim_about_checkpoints(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "a0", correct=[1, 2])
    make_run(tmp_path, "t0", correct=[2, 4])
    make_sweep(tmp_path, [("all", 0, "a0"), ("top", 0, "t0")])
    row = _rows(tmp_path)["top"]
    assert row.differences[pass_at(1)].estimand == Estimand.E2
    assert "one training run per arm: the claim is about two checkpoints" in row.remark


def test_k_above_the_samples_of_a_run_is_left_out(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "a0", correct=[1, 2], num_samples=8, k=(1, 8))
    make_run(tmp_path, "a1", correct=[1, 2], num_samples=4, k=(1, 4), seed=1)
    make_sweep(tmp_path, [("all", 0, "a0"), ("all", 1, "a1")])
    assert list(_rows(tmp_path)["all"].asked) == metrics_of([1, 4], [0.5])
    assert list(compare(tmp_path, "demo", ks=[2]).rows[0].asked) == metrics_of([2], [0.5])


def test_a_damaged_run_does_not_hide_the_others(store: Path) -> None:
    path = next((store / "runs" / "t1").glob("evals/*/samples-000.parquet"))
    path.write_bytes(b"junk")
    comparison = compare(store, "demo")
    assert comparison.rows[1].seeds == (0,)
    trouble = comparison.troubles[0]
    assert (trouble.run_id, trouble.state) == ("t1", "unreadable")
    assert "samples-000.parquet cannot be read" in trouble.error


def test_a_run_that_is_still_training_is_listed_as_running(store: Path) -> None:
    with Attempt.open(store / "runs" / "t3"):
        assert compare(store, "demo").troubles[-1].state == "running"


def test_an_adhoc_sweep_without_baseline_has_no_differences(store: Path, make_sweep: Make) -> None:
    make_sweep(store, [("p=1", 0, "a0"), ("p=2", 0, "t0")], baseline=None)
    assert all(row.differences == {} for row in compare(store, "demo").rows)


def test_an_unknown_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sweep\.json is missing"):
        compare(tmp_path, "demo")


def test_every_metric_has_an_interval_over_questions_and_seeds(store: Path) -> None:
    # Correct of 4 samples, the wrong ones alike: 4, 2, 0 with seed 0 and 4, 1, 1 with seed 1. With all four
    # drawn maj@4 is 1, 1/2, 0 and 1, 0, 0; pass^4 is 1, 0, 0 twice; cover@0.5 is 1, 1, 0 and 1, 0, 0.
    comparison = compare(store, "demo")
    row = comparison.rows[0]
    assert list(comparison.metrics) == metrics_of([1, 4], [0.5])
    expected = {
        Metric(Kind.maj_at, 4): [[1, 0.5, 0], [1, 0, 0]],
        Metric(Kind.pass_hat, 4): [[1, 0, 0], [1, 0, 0]],
        Metric(Kind.cover_at, 0.5): [[1, 1, 0], [1, 0, 0]],
    }
    for metric, scores in expected.items():
        estimate = arm_estimate(np.array(scores, dtype=float), limits=SHARE)
        assert row.results[metric].value == pytest.approx(estimate.value)
        assert (row.results[metric].low, row.results[metric].high) == pytest.approx(
            (estimate.low, estimate.high)
        )
        assert comparison.rows[1].differences[metric].estimand == Estimand.E4


def test_arms_that_lack_a_seed_are_said_not_to_be_paired(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    entries = [(arm, seed, f"{arm}{seed}") for arm in ("all", "top") for seed in (0, 1, 2)]
    for _, seed, run_id in entries:
        make_run(tmp_path, run_id, correct=[seed, 2, 4 - seed], seed=seed)
    make_sweep(tmp_path, entries)
    assert "paired" not in compare(tmp_path, "demo").rows[1].remark
    shutil.rmtree(tmp_path / "runs" / "top1")
    assert "not paired by seed: seeds 0 2 against 0 1 2" in compare(tmp_path, "demo").rows[1].remark


def test_the_curve_of_differences_has_their_values_and_a_wider_interval(store: Path) -> None:
    rows = {row.arm: row for row in compare(store, "demo").rows}
    top = rows["top"]
    assert rows["all"].difference_curve == {}
    assert [metric.at for metric in top.difference_curve] == [1, 2, 4]
    for metric in (Metric(Kind.pass_at, 1), Metric(Kind.pass_at, 4)):
        one, band = top.differences[metric], top.difference_curve[metric]
        assert band.confidence > one.confidence == 0.95
        assert band == one.at(band.confidence)


def test_a_metric_is_named_for_people_and_for_mlflow() -> None:
    metrics = metrics_of([8, 1], [0.9])
    assert [str(metric) for metric in metrics] == ["avg@n", "pass@8", "maj@8", "pass^8", "cover@0.9"]
    assert [metric.key for metric in metrics] == [
        "pass_at_1",
        "pass_at_8",
        "maj_at_8",
        "pass_hat_8",
        "cover_at_0.9",
    ]
    assert all(legal_name(metric.key) == metric.key for metric in metrics)


def test_a_run_that_is_listed_twice_is_named_before_anything_is_loaded(store: Path, make_sweep: Make) -> None:
    make_sweep(store, [("all", 0, "a0"), ("top", 0, "t0"), ("top", 0, "t0"), ("top", 1, "t1")])
    loaded: list[int] = []
    with pytest.raises(
        ValueError, match=r"demo.sweep\.json must list .* several runs of ops top seed 0: take"
    ):
        compare(store, "demo", progress=lambda done, _: loaded.append(done))
    assert not loaded
