"""A plan says what its claims can detect, and which of them it cannot decide at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokensweep.identity import read_json
from tokensweep_analysis.arms import Arm, Cell, gather
from tokensweep_analysis.assumed import components_for
from tokensweep_analysis.claims import Claim, parse_claims
from tokensweep_analysis.loading import load_runs
from tokensweep_analysis.planning import PlannedArm, Prospect, prospects
from tokensweep_analysis.power import CENTRAL, design_detectable

Make = Callable[..., None]
ARM = PlannedArm(
    seeds=(0, 1, 2),
    questions={"aime24": 30, "aime25": 30},
    samples={"aime24": 32, "aime25": 32},
    models=frozenset({"Qwen/Qwen3-8B-Base"}),
    data=frozenset({"dapo_math_17k"}),
)


def _claim(**changes: Any) -> Claim:
    entry = {"id": "wins", "kind": "superiority", "contrast": "top - all", "metric": "aime24/avg", **changes}
    return parse_claims([entry], arms={"top", "all", "rest"})[0]


def _prospect(claim: Claim, arm: PlannedArm = ARM) -> Prospect:
    (found,) = prospects([claim], {("math", "all"): arm, ("math", "top"): arm})
    return found


def test_the_detectable_difference_is_that_of_the_design() -> None:
    found = _prospect(_claim(claimed=0.08))
    expected = design_detectable(CENTRAL, questions=30, seeds=3, samples=32, paired_seeds=True)
    assert found.advice is not None
    assert found.advice.detectable == pytest.approx(expected)
    assert found.lowest is not None
    assert found.highest is not None
    assert found.lowest < expected < found.highest
    assert not found.is_measured


@pytest.mark.parametrize("name", ["pass_at_8", "pass_hat_8", "cover_at_0.5"])
def test_claims_on_other_metrics_have_figures_on_their_own_scale(name: str) -> None:
    claim = _claim(metric=f"aime24/{name}")
    assert claim.metric is not None
    found = _prospect(claim)
    assert found.advice is not None
    for samples, figure in ((32, found.advice.detectable), (64, found.advice.twice_the_samples)):
        components = components_for(claim.metric, CENTRAL, samples=samples)
        expected = design_detectable(components, questions=30, seeds=3, samples=samples, paired_seeds=True)
        assert figure == pytest.approx(expected)
    assert not found.obstacle
    assert not found.remark


def test_the_range_holds_the_figure_where_optimistic_variances_leave_too_few_degrees_of_freedom() -> None:
    # pass@8 of 8 samples is 0 or 1: little but sampling varies, and its degrees of freedom are few.
    found = _prospect(_claim(metric="aime24/pass_at_8"), replace(ARM, samples=dict.fromkeys(ARM.samples, 8)))
    assert found.advice is not None
    assert found.lowest is not None
    assert found.highest is not None
    assert found.lowest <= found.advice.detectable <= found.highest


def test_a_majority_has_no_figure_before_runs_have_finished_and_says_why() -> None:
    found = _prospect(_claim(metric="aime24/maj_at_8"))
    assert found.advice is None
    assert not found.obstacle  # there may well be a verdict
    assert found.remark == "no figure before runs have finished: maj@8 depends on which wrong answers agree"


def _whole(*parts: dict[str, Any], arm: PlannedArm = ARM) -> Prospect:
    """The prospect of a claim that consists of these."""
    entries = [
        {"id": f"part{place}", "kind": "superiority", "contrast": "top - all", "metric": "aime24/avg", **part}
        for place, part in enumerate(parts)
    ]
    both = {"id": "both", "kind": "all_of", "parts": [entry["id"] for entry in entries]}
    claims = parse_claims([both, *entries], arms={"top", "all", "rest"})
    return prospects(claims, {("math", "all"): arm, ("math", "top"): arm})[0]


def test_a_claim_of_parts_names_the_hardest() -> None:
    pooled = {"metric": "pooled/avg"}
    said = "reproduced only if all its parts are, so less often than the hardest, part{}"
    assert _whole(pooled, {}).remark == said.format(1)  # on one benchmark more has to be detected
    # 20 points of some 8 are easier than 1 point of some 6.
    assert _whole({**pooled, "claimed": 0.01}, {"claimed": 0.2}).remark == said.format(0)
    assert not _whole(pooled, {}).obstacle
    assert _whole(pooled, {}).advice is None


@pytest.mark.parametrize(
    ("parts", "seeds", "obstacle"),
    [
        ([{}, {"contrast": "rest - all"}], 3, "cannot be reproduced: part1 will have no verdict"),
        ([{}, {}], 2, "inconclusive: 2 seeds, a verdict needs 3"),
    ],
)
def test_a_claim_of_parts_says_what_keeps_it_from_being_reproduced(
    parts: list[dict[str, Any]], seeds: int, obstacle: str
) -> None:
    assert _whole(*parts, arm=replace(ARM, seeds=tuple(range(seeds)))).obstacle == obstacle


def test_a_claim_with_a_part_that_has_no_figure_names_no_hardest() -> None:
    remark = _whole({}, {"metric": "aime24/maj_at_8"}).remark
    assert remark == "reproduced only if all its parts are: see there"


def test_what_is_below_the_claimed_size_is_enough_and_otherwise_something_is_to_add() -> None:
    assert _prospect(_claim(claimed=0.2)).to_add == "nothing"
    assert _prospect(_claim(claimed=0.01)).to_add in {"seeds", "questions", "samples"}
    assert _prospect(_claim()).to_add != "nothing"  # no size claimed: there is nothing to be within


def test_a_pooled_claim_is_planned_over_all_benchmarks() -> None:
    pooled, single = _prospect(_claim(metric="pooled/avg")), _prospect(_claim())
    assert pooled.advice is not None
    assert single.advice is not None
    assert pooled.advice.detectable < single.advice.detectable


def test_claims_of_a_family_are_planned_for_the_first_step_of_holm() -> None:
    claims = [_claim(), replace(_claim(), id="again"), replace(_claim(), id="far", model="Qwen3-32B-Base")]
    found = prospects(claims, {("math", "all"): ARM, ("math", "top"): ARM})
    expected = design_detectable(CENTRAL, questions=30, seeds=3, samples=32, paired_seeds=True, alpha=0.025)
    assert found[0].advice is not None
    assert found[0].advice.detectable == pytest.approx(expected)
    assert [each.num_claims for each in found] == [2, 2, 1]


def test_a_margin_is_held_to_a_one_sided_test() -> None:
    found = _prospect(_claim(kind="non_inferiority", margin=0.02))
    expected = design_detectable(CENTRAL, questions=30, seeds=3, samples=32, paired_seeds=True, alpha=0.1)
    assert found.advice is not None
    assert found.advice.detectable == pytest.approx(expected)


@pytest.mark.parametrize(
    ("claim", "arm", "obstacle"),
    [
        ({"contrast": "rest - all"}, {}, "not run: no rest in this plan"),
        ({"metric": "hmmt/avg"}, {}, "not run: no evaluation on hmmt"),
        ({"setting": "code"}, {}, "not run: no setting code in this sweep (has math)"),
        ({"metric": "pooled/avg"}, {"questions": {}, "samples": {}}, "not run: no evaluation on anything"),
        ({"metric": "aime24/pass_at_64"}, {}, "not run: pass@64 needs 64 samples, planned are 32"),
        (
            {"model": "Qwen3-32B-Base"},
            {},
            "not comparable: model Qwen/Qwen3-8B-Base instead of",
        ),
        ({}, {"seeds": (0, 1)}, "inconclusive: 2 seeds, a verdict needs 3"),
        ({}, {"seeds": (0,)}, "inconclusive: 1 seed, a verdict needs 3"),
        ({}, {"questions": {"aime24": 12}}, "inconclusive: 12 questions, a verdict needs 20"),
        ({}, {"questions": {"aime24": 1}}, "inconclusive: 1 question, a verdict needs 20"),
    ],
)
def test_what_cannot_be_decided_is_said_before_anything_runs(
    claim: dict[str, Any], arm: dict[str, Any], obstacle: str
) -> None:
    assert _prospect(_claim(**claim), replace(ARM, **arm)).obstacle.startswith(obstacle)


def test_arms_of_other_models_are_said_to_have_no_verdict_before_anything_runs() -> None:
    other = replace(ARM, models=frozenset({"Qwen/Qwen3-14B-Base"}))
    (found,) = prospects([_claim()], {("math", "all"): ARM, ("math", "top"): other})
    assert found.obstacle == (
        "not comparable: arms are trained with different model Qwen/Qwen3-14B-Base against Qwen/Qwen3-8B-Base"
    )
    assert found.advice is None


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_too_few_seeds_have_figures_that_say_what_more_would_bring(seeds: tuple[int, ...]) -> None:
    found = _prospect(_claim(claimed=0.2), replace(ARM, seeds=seeds))
    expected = design_detectable(CENTRAL, questions=30, seeds=len(seeds), samples=32, paired_seeds=True)
    assert found.advice is not None
    assert found.advice.detectable == pytest.approx(expected)
    assert found.to_add == "seeds"


def test_a_pooled_claim_needs_every_benchmark_on_both_sides() -> None:
    less = replace(ARM, questions={"aime24": 30}, samples={"aime24": 32})
    (found,) = prospects([_claim(metric="pooled/avg")], {("math", "all"): less, ("math", "top"): ARM})
    assert found.obstacle == "not run: no evaluation on aime25"


def test_a_claim_of_parts_about_a_setting_that_is_not_there_is_named_in_its_place() -> None:
    both = {"id": "both", "kind": "all_of", "parts": ["wins", "also"], "setting": "code"}
    parts = [
        {"id": name, "kind": "superiority", "contrast": "top - all", "metric": "aime24/avg"}
        for name in both["parts"]
    ]
    claims = parse_claims([both, *parts], arms={"top", "all"})
    found = prospects(claims, {(name, arm): ARM for name in ("math", "logic") for arm in ("all", "top")})
    assert [each.claim.id for each in found] == ["both", "wins", "wins", "also", "also"]
    assert found[0].obstacle == "not run: no setting code in this sweep (has math, logic)"


@pytest.fixture
def finished(tmp_path: Path, make_run: Make, make_sweep: Make) -> dict[Cell, Arm]:
    """Two runs of two arms on 25 questions with 4 samples."""
    entries = []
    for seed in (0, 1):
        for shift, arm in enumerate(("all", "top")):
            counts = [(question + seed + shift) % 5 for question in range(25)]
            make_run(tmp_path, f"{arm}{seed}", correct=counts, seed=seed)
            entries.append((arm, seed, f"{arm}{seed}"))
    make_sweep(tmp_path, entries)
    rows = read_json(tmp_path / "sweeps" / "demo" / "sweep.json")["runs"]
    return gather(rows, load_runs([tmp_path / "runs" / row["run_id"] for row in rows]))


def _after(finished: dict[Cell, Arm], name: str, *, samples: int = 4) -> Prospect:
    here = replace(ARM, questions={"ops": 25}, samples={"ops": samples})
    planned = {("ops", "all"): here, ("ops", "top"): here}
    (found,) = prospects([_claim(metric=f"ops/{name}")], planned, finished=finished)
    return found


def test_variances_of_finished_runs_replace_the_assumed_ones(finished: dict[Cell, Arm]) -> None:
    found, assumed = _after(finished, "avg"), _after({}, "avg")
    assert found.is_measured
    assert found.lowest is None
    assert found.advice is not None
    assert assumed.advice is not None
    assert found.advice.detectable != assumed.advice.detectable
    assert found.advice.twice_the_samples is not None


@pytest.mark.parametrize("name", ["pass_at_2", "maj_at_2", "pass_hat_2", "cover_at_0.5"])
def test_finished_runs_tell_of_any_metric_but_not_what_more_samples_bring(
    finished: dict[Cell, Arm], name: str
) -> None:
    found = _after(finished, name)
    assert found.is_measured
    assert found.advice is not None
    assert found.advice.detectable > 0
    assert found.advice.twice_the_samples is None
    assert not found.remark


def test_finished_runs_with_other_numbers_of_samples_tell_of_averages_only(
    finished: dict[Cell, Arm],
) -> None:
    assert _after(finished, "avg", samples=8).is_measured
    for name in ("pass_at_2", "pass_at_8"):  # of 8 there are none in the finished runs
        found = _after(finished, name, samples=8)
        assert not found.is_measured
        assert found.advice is not None
