"""Every sweep file that ships: each arm composes, arms differ, claims speak of arms that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tokensweep.compose import Freezer, freeze_run, register_components
from tokensweep.identity import digest, identity_of
from tokensweep.orchestrate import dry_run
from tokensweep.paths import sweep_dirs
from tokensweep.sweepfile import Sweep, load_sweep
from tokensweep.sweepshape import read_sweep_file
from tokensweep_analysis.claims import parse_claims

_FILES = sorted(sweep_dirs()[-1].glob("*.yaml"))
_CONTENTS = {path.stem: yaml.safe_load(path.read_text()) for path in _FILES}
NAMES = [name for name, content in _CONTENTS.items() if "search" not in content]  # those have arms
OF_A_PAPER = [name for name in NAMES if "paper" in _CONTENTS[name]]  # the others claim nothing


def whole(name: str) -> Sweep:
    """All arms of a sweep file, not only those that its scale tiny runs."""
    content = read_sweep_file(sweep_dirs()[-1] / f"{name}.yaml")
    return load_sweep(name, scale="tiny", seeds=[0], arms=list(content["arms"]))


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_composes_and_differs_from_all_others(name: str) -> None:
    register_components()
    seen: dict[tuple[str, str], str] = {}
    freezer = Freezer()
    for job in whole(name).jobs:
        identity = digest(identity_of(freezer.freeze(job.overrides)))
        twin = seen.setdefault((job.setting, identity), job.arm)
        assert twin == job.arm, f"{twin} and {job.arm} are one and the same run"


@pytest.mark.parametrize("name", OF_A_PAPER)
def test_every_claim_contrasts_two_arms_and_names_its_source(name: str) -> None:
    sweep = whole(name)
    claims = parse_claims(sweep.claims, arms={job.arm for job in sweep.jobs})
    published = [claim for claim in claims if claim.model]
    assert published
    assert all(claim.source for claim in published)


@pytest.mark.parametrize("name", OF_A_PAPER)
def test_a_scale_that_is_not_the_paper_s_has_claims_of_its_own_first(name: str) -> None:
    claims = whole(name).claims
    own = ["model" not in claim for claim in claims]
    assert own[0]
    assert own == sorted(own, reverse=True)


def test_the_ladder_adds_one_thing_at_a_time() -> None:
    # The rung of the soft punishment also takes the filter out, as the file says.
    register_components()
    jobs = {job.arm: job for job in whole("dapo_ladder").jobs}
    methods = {arm: freeze_run(job.overrides)["method"] for arm, job in jobs.items()}

    def changed(one: str, other: str) -> set[str]:
        labels = {"name", "paper", "evidence", "applies_to"}
        return {key for key in methods[one] if methods[one][key] != methods[other][key]} - labels

    assert changed("naive", "overlong_filter") == {"token_weights"}
    assert changed("overlong_filter", "clip_higher") == {"surrogate"}
    assert changed("clip_higher", "soft_overlong") == {"token_weights", "reward_terms"}
    assert changed("soft_overlong", "token_mean") == {"aggregate"}
    assert changed("token_mean", "dapo") == {"allocation"}
    assert changed("dapo", "dapo_recipe") == {"surrogate"}


def test_a_plan_prints_what_its_claims_can_detect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load_sweep("forking_tokens", scale="tiny", overrides=[f"store={tmp_path}"])
    dry_run(sweep, launcher="local")
    text = " ".join(capsys.readouterr().out.split())
    assert "What the claims can detect, in points" in text
    other = "not comparable: model tiny instead of Qwen3-8B-Base; data"
    assert f"top_not_worse in ops, bottom_hurts in ops: {other} ops instead of DAPO-Math-17k" in text
    assert f"top_not_worse in countdown, bottom_hurts in countdown: {other} countdown" in text
    assert "Variances are assumed" in text
    assert "Beta(0.3, 0.7)" not in text  # all claims are on averages
    assert "tiny_signal: reproduced only if all its parts are, so less often than the hardest, tiny_" in text
    assert "at the first step, the hardest, of Holm's adjustment" in text


def test_a_plan_with_a_claim_on_pass_at_k_says_what_its_figure_assumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wider.yaml"
    path.write_text("""
arms: {all: {method: dapo}, top: {method: forking_tokens}}
seeds: [0, 1, 2]
claims:
  - {id: wider, kind: superiority, contrast: top - all, metric: ops/pass_at_4}
  - {id: agreed, kind: superiority, contrast: top - all, metric: ops/maj_at_4}
scales: {tiny: {settings: {ops: {data: ops}}}}
""")
    dry_run(load_sweep(str(path), scale="tiny", overrides=[f"store={tmp_path}"]), launcher="local")
    text = " ".join(capsys.readouterr().out.split())
    assert "wider -" in text  # in the table, with no size claimed
    assert "questions with accuracies of Beta(0.3, 0.7)" in text
    assert "agreed: no figure before runs have finished: maj@4 depends on which wrong answers agree" in text
    assert "Finished runs do not tell" not in text


def test_a_plan_of_one_seed_says_what_its_figures_are_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep("forking_tokens", scale="tiny", seeds=[1], overrides=[f"store={tmp_path}"])
    dry_run(sweep, launcher="local")
    text = " ".join(capsys.readouterr().out.split())
    assert "What the claims can detect, in points" in text
    assert "inconclusive: 1 seed, a verdict needs 3" in text
    assert "With one seed per arm the figure is about two checkpoints" in text
