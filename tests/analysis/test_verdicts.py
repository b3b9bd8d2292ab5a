"""Verdicts follow their rules, and guards forbid one where runs cannot carry it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep_analysis.claims import ClaimKind, Judgement, Verdict
from tokensweep_analysis.rules import RULES, Bounds
from tokensweep_analysis.tables import compare

Make = Callable[..., None]
REPRODUCED, REFUTED, NEITHER = (True, False), (False, True), (False, False)


@pytest.mark.parametrize(
    ("kind", "bounds", "effect", "expected"),
    [
        # The table of the rules, in points: 95 % low, high, 90 % low, high; smallest effect or margin.
        ("superiority", (1, 9, 2, 8), 2, REPRODUCED),
        ("superiority", (-1, 9, 0.1, 8), 2, NEITHER),
        ("superiority", (-3, 2.5, -2, 1.9), 2, REFUTED),  # the effect of interest is excluded
        ("superiority", (-9, -0.1, -8, -1), 2, REFUTED),  # reversed
        ("superiority", (0.5, 1.9, 0.6, 1.8), 2, (True, True)),  # real but small: reproduced comes first
        ("non_inferiority", (-2.5, 1, -1.9, 0.5), 2, REPRODUCED),
        ("non_inferiority", (-2.5, 1, -2.1, 0.5), 2, NEITHER),
        ("non_inferiority", (-5, -0.5, -4, -1), 2, REFUTED),
        ("equivalence", (-2.5, 2.5, -1.9, 1.9), 2, REPRODUCED),
        ("equivalence", (-2.5, 3, -1.9, 2.1), 2, NEITHER),
        ("equivalence", (2.1, 5, 2.5, 4), 2, REFUTED),
        ("equivalence", (-5, -2.1, -4, -2.5), 2, REFUTED),
        ("at_least", (2.1, 9, 3, 8), 2, REPRODUCED),
        ("at_least", (1.9, 9, 2.5, 8), 2, NEITHER),
        ("at_least", (-1, 2.2, 0, 1.9), 2, REFUTED),
    ],
)
def test_rules_read_the_ends_of_the_intervals(
    kind: str, bounds: Sequence[float], effect: float, expected: tuple[bool, bool]
) -> None:
    rule, ends = RULES[ClaimKind(kind)], Bounds(*bounds)
    assert (rule.reproduced(ends, effect), rule.refuted(ends, effect)) == expected


def _spread(mean: float, questions: int, seed: int) -> list[int]:
    """Correct of 4 samples per question."""
    draw = np.random.default_rng(seed).normal(mean, 0.25, size=questions)
    return [int(count) for count in np.clip(np.round(4 * draw), 0, 4)]


def _sweep(
    store: Path,
    make_run: Make,
    make_sweep: Make,
    *claims: dict[str, Any],
    top: float = 0.8,
    base: float = 0.4,
    questions: int = 24,
    seeds: Sequence[int] = (0, 1, 2),
    **columns: Any,
) -> tuple[Judgement, ...]:
    """Judgements on arm top against arm all."""
    entries = []
    for noise, (arm, mean, own) in enumerate((("all", base, {}), ("top", top, columns))):
        for seed in seeds:
            run_id = f"{arm}{seed}"
            counts = _spread(mean, questions, 10 * seed + noise)
            make_run(store, run_id, correct=counts, seed=seed, steps=30, columns=own)
            entries.append((arm, seed, run_id))
    make_sweep(store, entries, claims=list(claims))
    path = store / "sweeps" / "demo" / "sweep.json"
    content = read_json(path)
    for entry in content["runs"]:
        entry |= {"model": "Qwen/Qwen3-8B-Base", "data": "dapo_math_17k"}
    write_json(path, content)
    return compare(store, "demo").judgements


def _spoil(store: Path, run_id: str) -> None:
    """Make a finished run unhealthy."""
    spool = store / "runs" / run_id / "attempts" / "000" / "metrics.jsonl"
    spool.write_text(spool.read_text().replace('"reward":0.1,', '"reward":NaN,'))


def _claim(**changes: Any) -> dict[str, Any]:
    return {"id": "wins", "kind": "superiority", "contrast": "top - all", "metric": "ops/avg", **changes}


def test_a_clear_win_of_three_seeds_is_reproduced(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim())
    assert judged.verdict is Verdict.reproduced
    assert judged.estimate is not None
    assert judged.estimate.low > 0
    assert judged.p_value == judged.p_holm  # a family of one


def test_the_size_of_a_win_is_graded(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    sizes = {"small": 0.9, "fits": 0.35, "large": 0.2}
    claims = [_claim(id=name, claimed=size) for name, size in sizes.items()]
    grades = {each.claim.id: each.grade for each in _sweep(tmp_path, make_run, make_sweep, *claims)}
    assert grades == {"small": "smaller", "fits": "size consistent", "large": "larger"}


def test_a_reversed_win_is_refuted(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim(contrast="all - top"))
    assert judged.verdict is Verdict.refuted


def test_equal_arms_are_neither(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    # Every count from 0 to 4 five times in each run, on other questions: means are equal, questions are not.
    for seed in (0, 1, 2):
        for shift, arm in enumerate(("all", "top")):
            counts = [(question + seed + 2 * shift) % 5 for question in range(25)]
            make_run(tmp_path, f"{arm}{seed}", correct=counts, seed=seed)
    entries = [(arm, seed, f"{arm}{seed}") for arm in ("all", "top") for seed in (0, 1, 2)]
    make_sweep(tmp_path, entries, claims=[_claim(), _claim(id="same", kind="equivalence", margin=0.01)])
    judged = compare(tmp_path, "demo").judgements
    assert [each.verdict for each in judged] == [Verdict.inconclusive, Verdict.inconclusive]
    assert "95 % interval" in judged[0].reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seeds": (0, 1)}, "2 seeds; a claim about a method needs 3"),
        ({"seeds": (0,)}, "one training run per arm: the claim is about two checkpoints"),
        ({"questions": 19}, "19 questions, a verdict needs 20"),
        ({"grader": "exact 2"}, "evaluations of ops differ in grader"),
        ({"decode_hash": "hotter"}, r"evaluations of ops differ in decoding \(temperature, top_p"),
        ({"benchmark_revision": "rev2"}, "evaluations of ops differ in revision of the benchmark"),
        (
            {"sampling_seed": 5},
            "top: samples of 24 of 24 questions share a sampling seed, down to 1 different",
        ),
        ({"finish_reason": "length"}, r"100\.0 % of the answers of top are truncated and 0\.0 %"),
    ],
)
def test_a_guard_makes_a_clear_win_inconclusive(
    tmp_path: Path, make_run: Make, make_sweep: Make, options: dict[str, Any], reason: str
) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim(), **options)
    assert judged.verdict is Verdict.inconclusive
    assert judged.grade == ""
    with pytest.raises(ValueError, match=reason):
        raise ValueError(judged.reason)


def test_too_few_seeds_say_what_became_of_the_others(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    _sweep(tmp_path, make_run, make_sweep, _claim(), seeds=(0, 1, 2, 3))
    runs = tmp_path / "runs"
    (runs / "top0" / "plan.json").write_text("{")
    (runs / "top1" / "plan.json").write_text("{")
    _fail(runs / "all2")
    (before,) = compare(tmp_path, "demo").judgements
    assert before.reason == "2 seeds (seeds 0, 1 of top unreadable); a claim about a method needs 3"
    _fail(runs / "all1")
    (after,) = compare(tmp_path, "demo").judgements
    assert after.reason.startswith(
        "2 seeds (seeds 0, 1 of top unreadable; seeds 1, 2 of all failed); a claim"
    )


def _fail(run_dir: Path) -> None:
    """A run that failed before its evaluation."""
    events = run_dir / "attempts" / "000" / "events.jsonl"
    first = events.read_text().splitlines()[0]
    failed = {"time": 9, "kind": "failed", "attempt": 0, "error": "no", "class": "OSError"}
    events.write_text(f"{first}\n{json.dumps(failed)}\n")


def test_a_collapsed_winner_does_not_win_but_a_collapsed_loser_may_be_the_claim(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    claims = [_claim(), _claim(id="loses", contrast="all - top")]
    before = _sweep(tmp_path, make_run, make_sweep, *claims)
    assert [each.verdict for each in before] == [Verdict.reproduced, Verdict.refuted]
    _spoil(tmp_path, "top0")
    after = compare(tmp_path, "demo").judgements
    assert [each.verdict for each in after] == [Verdict.inconclusive, Verdict.refuted]
    assert "top is not healthy: not finite in 1 of 30 steps" in after[0].reason


def test_equivalence_asks_both_arms_to_be_well_however_it_is_written(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    both = [
        _claim(id=f"{first}", contrast=f"{first} - {second}", kind="equivalence", margin=0.9)
        for first, second in (("top", "all"), ("all", "top"))
    ]
    before = _sweep(tmp_path, make_run, make_sweep, *both)
    assert {each.verdict for each in before} == {Verdict.reproduced}
    _spoil(tmp_path, "top0")
    after = compare(tmp_path, "demo").judgements
    assert {each.verdict for each in after} == {Verdict.inconclusive}
    assert all("top is not healthy" in each.reason for each in after)


def test_equivalence_is_not_read_off_one_truncated_arm(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    same = _claim(contrast="all - top", kind="equivalence", margin=0.9)
    (judged,) = _sweep(tmp_path, make_run, make_sweep, same, finish_reason="length")
    assert judged.verdict is Verdict.inconclusive
    assert "they are not measured alike" in judged.reason


def test_a_claim_smaller_than_what_the_runs_detect_gets_no_verdict(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim(claimed=0.01))
    assert judged.verdict is Verdict.inconclusive
    assert "the claim is +1.0 points, and these runs detect" in judged.reason


def test_a_reversed_difference_refutes_a_claim_that_is_smaller_than_what_the_runs_detect(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim(contrast="all - top", claimed=0.01))
    assert judged.verdict is Verdict.refuted
    assert judged.detectable is not None
    assert judged.detectable > 0.01


def test_samples_that_are_one_have_no_pass_at_k(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    claim = _claim(metric="ops/pass_at_4")
    (judged,) = _sweep(tmp_path, make_run, make_sweep, claim, sampling_seed=5)
    assert judged.verdict is Verdict.not_run
    assert judged.reason == "pass@4 needs 4 different samples of each question, there are 1"
    rows = {row.arm: row for row in compare(tmp_path, "demo").rows}
    assert [metric.key for metric in rows["top"].results] == ["pass_at_1", "cover_at_0.5"]
    assert [metric.key for metric in rows["top"].differences] == ["pass_at_1", "cover_at_0.5"]


def test_p_and_interval_are_those_that_the_verdict_is_read_off(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    claims = [
        _claim(kind="non_inferiority", margin=0.02, contrast=c, id=c) for c in ("all - top", "top - all")
    ]
    refuted, reproduced = _sweep(tmp_path, make_run, make_sweep, *claims)
    assert (refuted.verdict, reproduced.verdict) == (Verdict.refuted, Verdict.reproduced)
    for judged, role in ((refuted, "refute"), (reproduced, "reproduce")):
        assert judged.p_holm is not None
        assert judged.estimate is not None
        assert judged.p_holm < 0.05
        assert judged.estimate.confidence == getattr(judged, role).confidence


def test_another_model_is_not_comparable(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    claims = [
        _claim(id="same", model="Qwen3-8B-Base", data="DAPO-Math-17k"),
        _claim(id="other", model="Qwen3-32B-Base", data="DAPO-Math-17k"),
    ]
    same, other = _sweep(tmp_path, make_run, make_sweep, *claims)
    assert same.verdict is Verdict.reproduced
    assert other.verdict is Verdict.not_comparable
    assert other.reason == "model Qwen/Qwen3-8B-Base instead of Qwen3-32B-Base"
    assert other.estimate is not None  # shown all the same


def test_another_model_is_not_comparable_however_it_was_evaluated(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    claim = _claim(model="Qwen3-32B-Base", data="DAPO-Math-17k")
    (judged,) = _sweep(tmp_path, make_run, make_sweep, claim, grader="exact 2")
    assert judged.verdict is Verdict.not_comparable
    assert judged.reason == "model Qwen/Qwen3-8B-Base instead of Qwen3-32B-Base"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "aime24/avg"}, "no evaluation on aime24"),
        ({"metric": "ops/pass_at_64"}, "pass@64 needs 64 different samples of each question, there are 4"),
        ({"contrast": "top - bottom"}, "this sweep has no bottom"),
        ({"setting": "countdown"}, "no setting countdown in this sweep (has ops)"),
    ],
)
def test_what_was_not_measured_is_not_run(
    tmp_path: Path, make_run: Make, make_sweep: Make, changes: dict[str, Any], reason: str
) -> None:
    (judged,) = _sweep(tmp_path, make_run, make_sweep, _claim(**changes))
    assert (judged.verdict, judged.reason) == (Verdict.not_run, reason)


def test_an_arm_without_a_finished_run_is_not_run(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    make_run(tmp_path, "a0", correct=[2] * 24)
    make_sweep(tmp_path, [("all", 0, "a0"), ("top", 0, "t0")], claims=[_claim()])
    (judged,) = compare(tmp_path, "demo").judgements
    assert (judged.verdict, judged.reason) == (Verdict.not_run, "no run of top has finished")


def test_claims_of_a_family_share_holm_and_wider_intervals(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    alone = _sweep(tmp_path / "one", make_run, make_sweep, _claim())[0]
    claims = [_claim(), _claim(id="pass", metric="ops/pass_at_4"), _claim(id="far", model="other")]
    first, second, far = _sweep(tmp_path / "two", make_run, make_sweep, *claims)
    assert alone.p_value is not None
    p_values = [first.p_value, second.p_value]
    assert first.p_value == alone.p_value
    assert far.p_holm is None  # not decided, so no part of any family
    smaller, larger = sorted(value for value in p_values if value is not None)
    adjusted = sorted(value for value in (first.p_holm, second.p_holm) if value is not None)
    assert adjusted == pytest.approx([min(1, 2 * smaller), max(2 * smaller, larger)])


def test_a_composite_needs_all_and_falls_with_one(tmp_path: Path, make_run: Make, make_sweep: Make) -> None:
    claims = [
        _claim(),
        _claim(id="reversed", contrast="all - top"),
        _claim(id="elsewhere", metric="aime24/avg"),
        {"id": "good", "kind": "all_of", "parts": ["wins", "wins2"]},
        {"id": "bad", "kind": "all_of", "parts": ["wins", "reversed", "elsewhere"]},
        {"id": "open", "kind": "all_of", "parts": ["wins", "elsewhere"]},
        _claim(id="wins2", metric="pooled/avg"),
    ]
    verdicts = {each.claim.id: each.verdict for each in _sweep(tmp_path, make_run, make_sweep, *claims)}
    assert verdicts["good"] is Verdict.reproduced
    assert verdicts["bad"] is Verdict.refuted
    assert verdicts["open"] is Verdict.not_run


def test_an_interval_of_a_claim_is_printed_with_the_level_that_holm_left_it(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    # Two claims that are clearly reproduced: the smaller p is held to 0.05 / 2, the other one to 0.05. None
    # is refuted, so both one-sided tests stay at 0.05 / 2, an interval of 1 - 2 * 0.025.
    claims = [_claim(), _claim(id="pass", metric="ops/pass_at_4")]
    judged = _sweep(tmp_path, make_run, make_sweep, *claims)
    assert [each.verdict for each in judged] == [Verdict.reproduced, Verdict.reproduced]
    harder, easier = sorted(judged, key=lambda each: each.p_value or 0.0)
    assert harder.reason.startswith("97.5 % interval (95 %, Holm over 2) [")
    assert easier.reason.startswith("95 % interval [")
    assert all(", 95 % interval (90 %, Holm over 2) [" in each.reason for each in judged)
    assert [each.reproduce and each.reproduce.confidence for each in (harder, easier)] == pytest.approx(
        [0.975, 0.95]
    )
    assert [each.refute and each.refute.confidence for each in (harder, easier)] == pytest.approx(
        [0.95, 0.95]
    )
    assert [each.holm_over for each in (harder, easier)] == [2, 2]


def test_a_claim_alone_has_the_levels_of_its_rule_and_margins_turn_them_round(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    (alone,) = _sweep(tmp_path / "one", make_run, make_sweep, _claim())
    assert "95 % interval [" in alone.reason
    assert ", 90 % interval [" in alone.reason
    assert "Holm" not in alone.reason
    assert alone.reproduce is not None
    assert alone.refute is not None
    assert [alone.reproduce.confidence, alone.refute.confidence] == pytest.approx([0.95, 0.9])
    claim = _claim(kind="non_inferiority", margin=0.02)
    (margin,) = _sweep(tmp_path / "two", make_run, make_sweep, claim)
    assert margin.estimate is not None
    assert margin.reproduce is not None
    assert margin.refute is not None
    assert [margin.reproduce.confidence, margin.refute.confidence] == pytest.approx([0.9, 0.95])
    assert (margin.reproduce.low, margin.reproduce.high) == (margin.estimate.low, margin.estimate.high)
    assert (margin.refute.low, margin.refute.high) == margin.estimate.interval(0.95)
    assert margin.p_above_0 is not None
    assert margin.p_above_smallest is None  # being two points better is not what it claims
