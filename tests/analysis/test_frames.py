"""The files for other programs hold every number of a comparison, a line each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep_analysis.frames import claim_frame, contrast_frame, ranking_frame
from tokensweep_analysis.tables import compare


def _claims(store: Path, *claims: dict[str, str]) -> None:
    path = store / "sweeps" / "demo" / "sweep.json"
    write_json(path, {**read_json(path), "claims": list(claims)})


def _values(frame: pd.DataFrame, metric: str) -> list[float]:
    return [float(value) for value in frame[frame["metric"] == metric]["value"]]


def test_the_ranking_holds_every_k_of_pass_at_k_with_rates_and_the_guess_floor(store: Path) -> None:
    frame = ranking_frame(compare(store, "demo"))
    names = set(frame["metric"])
    assert {
        "pass_at_1",
        "pass_at_2",
        "pass_at_3",
        "pass_at_4",
        "maj_at_4",
        "pass_hat_4",
        "cover_at_0.5",
    } <= names
    assert _values(frame, "pass_at_1") == pytest.approx([0.5, 0.625])
    # Correct of 4: 4, 2, 0 and 4, 1, 1 for arm all. At k = 2 a question with 2 misses in 1 of 6 draws, with 1
    # in 3 of 6: (1 + 5/6 + 0 + 1 + 1/2 + 1/2) / 6 = 23/36.
    assert _values(frame, "pass_at_2")[0] == pytest.approx(23 / 36)
    # Ten digits: one guess in ten is right, four all miss with probability 0.9^4 = 0.6561.
    assert _values(frame, "guess_floor_at_4") == pytest.approx([0.3439, 0.3439])
    assert _values(frame, "length_mean") == [10.0, 10.0]
    first = frame.iloc[0]
    assert first["low"] < first["value"] < first["high"]
    assert (first["runs"], first["planned"], first["failed"]) == (2, 2, 0)


def test_the_contrasts_have_a_line_per_arm_and_metric(store: Path) -> None:
    frame = contrast_frame(compare(store, "demo"))
    assert set(frame["arm"]) == {"top"}
    assert set(frame["baseline"]) == {"all"}
    row = frame[frame["metric"] == "pass_at_1"].iloc[0]
    assert row["difference"] == pytest.approx(0.125)
    assert row["p"] == row["p_holm"]  # one arm is a family of one
    assert row["detectable"] > row["standard_error"]


def test_the_claims_have_a_line_per_claim_and_setting(store: Path) -> None:
    claim = {"id": "wins", "kind": "superiority", "contrast": "top - all", "metric": "pooled/avg"}
    _claims(store, claim, {**claim, "id": "lost", "model": "Qwen3-8B-Base", "source": "Table 2"})
    frame = claim_frame(compare(store, "demo"))
    assert list(frame["id"]) == ["wins", "lost"]
    assert list(frame["own"]) == [True, False]
    assert list(frame["setting"]) == ["ops", "ops"]
    assert list(frame["metric"]) == ["pooled/avg", "pooled/avg"]
    assert list(frame["verdict"]) == ["inconclusive", "not comparable"]


def test_an_interval_of_a_claim_stands_beside_its_level_and_is_named_by_its_role(store: Path) -> None:
    claim = {"id": "wins", "kind": "superiority", "contrast": "top - all", "metric": "pooled/avg"}
    _claims(store, claim, {**claim, "id": "other", "model": "Qwen3-8B-Base"})
    frame = claim_frame(compare(store, "demo")).set_index("id")
    assert not [name for name in frame.columns if "90" in name or "95" in name]
    wins, other = frame.loc["wins"], frame.loc["other"]
    assert (wins["level"], wins["level_reproduce"]) == (0.95, 0.95)
    assert wins["level_refute"] == pytest.approx(0.9)
    assert (wins["low"], wins["high"]) == (wins["low_reproduce"], wins["high_reproduce"])
    assert wins["low"] < wins["low_refute"] < wins["high_refute"] < wins["high"]
    assert (other["level"], wins["holm_over"]) == (0.95, 1)
    assert frame["level_reproduce"].isna().tolist() == [False, True]  # no rule has decided the other


def test_a_sweep_without_baseline_and_claims_has_empty_tables_with_their_columns(store: Path) -> None:
    path = store / "sweeps" / "demo" / "sweep.json"
    write_json(path, {**read_json(path), "baseline": None})
    comparison = compare(store, "demo")
    assert len(contrast_frame(comparison)) == len(claim_frame(comparison)) == 0
    assert "p_holm" in contrast_frame(comparison).columns
    assert "verdict" in claim_frame(comparison).columns
