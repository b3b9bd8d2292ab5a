"""Rollouts drawn once: what is drawn, kept and dealt, and that an interruption changes nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.test_collect import collector

from tokensweep.ledger import Attempt, read_metrics
from tokensweep.methods.grpo import EngineSource, PlainSampling, UniformAllocation
from tokensweep.methods.offline import (
    OfflineSource,
    mixed_by_clarity,
    read_trials,
    without_longest,
    write_trials,
)
from tokensweep.problems import Grade, Outcome, Problem
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.seeds import derive_seed
from tokensweep.train.collect import Collected, Group, Trial, problem_index
from tokensweep.train.metrics import WALL_CLOCK
from tokensweep.train.trainer import PreemptedError, run_training

importlib.import_module("easy_task")

Make = Callable[..., dict[str, Any]]

_SAMPLING = SamplingSpec(max_tokens=9)


def trial(
    right: bool, *, length: int = 1, truncated: bool = False, name: str = "p", sample: int = 0
) -> Trial:
    return Trial(
        problem=Problem(id=name, prompt=name, answer=None),
        sample=sample,
        request=Request(prompt_ids=(1,), seed=sample, sampling=_SAMPLING),
        rollout=Rollout(
            completion_ids=tuple(range(length)),
            sampler_logprobs=(-0.1,) * length,
            finish_reason="length" if truncated else "stop",
            weights_version=0,
        ),
        grade=Grade(outcome=Outcome.correct if right else Outcome.wrong, extracted="é", rule="first"),
        text="text",
    )


def group(grades: str, *, name: str, length: int = 1, truncated: bool = False) -> Group:
    """``grades`` such as "110": right, right, wrong."""
    return tuple(
        trial(grade == "1", name=name, sample=i, length=length, truncated=truncated and i == 0)
        for i, grade in enumerate(grades)
    )


def names(groups: list[Group]) -> list[str]:
    return [each[0].problem.id for each in groups]


def test_problems_near_one_half_come_first_and_those_of_one_outcome_not_at_all() -> None:
    groups = [group(g, name=g) for g in ("1111", "1110", "1100", "0000", "0100")]
    assert names(mixed_by_clarity(groups)) == ["1100", "1110", "0100"]


def test_equally_clear_problems_go_by_truncation_then_length_then_order() -> None:
    groups = [
        group("10", name="cut", truncated=True),
        group("10", name="long", length=5),
        group("10", name="short", length=2),
        group("01", name="as short", length=2),
    ]
    assert names(mixed_by_clarity(groups)) == ["short", "as short", "long", "cut"]


def test_the_longest_of_the_pooled_rollouts_are_left_out_and_groups_keep_their_order() -> None:
    # lengths 3 1 4 | 9 8 | 2 2 2 2 9: of 10 the 7 shortest stay, so 4 stays and 8, 9, 9 go
    lengths = ((3, 1, 4), (9, 8), (2, 2, 2, 2, 9))
    groups = [
        tuple(trial(True, length=length, name=str(n), sample=i) for i, length in enumerate(each))
        for n, each in enumerate(lengths)
    ]
    trimmed = without_longest(groups, share=0.7)
    assert [[len(t.rollout.completion_ids) for t in each] for each in trimmed] == [[3, 1, 4], [2, 2, 2, 2]]
    assert names(trimmed) == ["0", "2"]
    assert without_longest(groups, share=1.0) == groups


def test_stored_rollouts_come_back_to_the_bit(tmp_path: Path) -> None:
    trials = [*group("10", name="a", length=3), *group("01", name="b", truncated=True)]
    trials[0] = replace(trials[0], rollout=replace(trials[0].rollout, sampler_logprobs=(-0.1, -1 / 3, 0.0)))
    write_trials(tmp_path / "rollouts.parquet", trials)
    work = [(t.problem, t.sample, t.request) for t in trials]
    assert read_trials(tmp_path / "rollouts.parquet", work) == trials


def test_stored_rollouts_of_other_problems_or_with_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    trials = list(group("10", name="a", length=3))
    write_trials(path, trials)
    work = [(t.problem, t.sample, t.request) for t in trials]
    with pytest.raises(ValueError, match="must hold the 1 rollouts that its run asks for, got 2"):
        read_trials(path, work[:1])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"is damaged .* move the run's folder away"):
        read_trials(path, work)


def offline(tmp_path: Path, **fields: Any) -> Any:
    """A supply over ten problems, two rollouts each, of which the first is right."""
    drawing = collector(lambda number, sample: sample == 0 and number < 6, prompts=2)
    settings = OfflineSource(**{"problems": 8, "kept": 4, "shortest": 1.0, **fields})
    return settings.open(drawing, folder=tmp_path)


def collect(supply: Any, *, step: int, position: int) -> Collected:
    collected: Collected = supply.collect(
        step=step, position=position, allocation=UniformAllocation(), sampling=PlainSampling()
    )
    return collected


def test_the_first_step_draws_every_problem_with_seeds_and_sampling_of_its_own(tmp_path: Path) -> None:
    drawn = collect(offline(tmp_path), step=1, position=0).sampled
    order = [f"even-{problem_index(position, size=10, seed=0)}" for position in range(8)]
    assert [each[0].problem.id for each in drawn] == order
    assert [[t.request.seed for t in each] for each in drawn] == [
        [derive_seed(0, "offline", name, sample) for sample in range(2)] for name in order
    ]
    assert {(t.request.sampling.temperature, t.request.sampling.top_p) for each in drawn for t in each} == {
        (0.6, 0.95)
    }


def test_every_epoch_deals_all_kept_groups_once(tmp_path: Path) -> None:
    supply = offline(tmp_path)
    dealt, position = [], 0
    for step in range(1, 5):  # 4 groups, 2 a step: two epochs
        collected = collect(supply, step=step, position=position)
        dealt += names(list(collected.kept))
        position = collected.position
    assert len(set(dealt[:4])) == 4
    assert sorted(dealt[:4]) == sorted(dealt[4:])
    assert position == 8
    assert collected.metrics["source/epochs"] == 2
    assert all({t.grade.accuracy for t in each} == {0.0, 1.0} for each in collected.kept)


def test_only_the_step_that_draws_counts_what_was_drawn(tmp_path: Path) -> None:
    supply = offline(tmp_path)
    first, second = (collect(supply, step=step, position=0) for step in (1, 2))
    assert (len(first.sampled), first.rounds) == (8, 1)
    assert (len(second.sampled), second.rounds) == (0, 0)


def test_a_later_attempt_reads_what_the_first_one_drew(tmp_path: Path) -> None:
    before = collect(offline(tmp_path), step=1, position=0)
    again = collect(offline(tmp_path), step=1, position=0)
    later = collect(offline(tmp_path), step=2, position=0)
    assert again == before
    assert later.kept == before.kept


def test_a_run_that_lost_its_rollouts_does_not_draw_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing: it holds the rollouts of a run that has gone on"):
        collect(offline(tmp_path), step=2, position=0)


def test_data_that_teaches_nothing_is_refused(tmp_path: Path) -> None:
    supply = OfflineSource(problems=3, kept=3).open(collector(lambda n, s: True), folder=tmp_path)
    with pytest.raises(ValueError, match="of 3 problems none has both right and wrong rollouts"):
        collect(supply, step=1, position=0)


def test_the_engine_is_the_collector_itself(tmp_path: Path) -> None:
    drawing = collector(lambda n, s: True)
    assert EngineSource().open(drawing, folder=tmp_path) is drawing


# Whole runs.

_OFFLINE = {
    "_component_": "method/source/offline",
    "problems": 7,
    "kept": 6,
    "temperature": 1.0,
    "top_p": 1.0,
}


@pytest.fixture(scope="module")
def config(small_config: Make) -> dict[str, Any]:
    """Four steps of ReasonMaxxer over adapters."""
    golden = Path(__file__).parents[1] / "golden" / "reasonmaxxer.json"
    method = {**json.loads(golden.read_text()), "updates_per_batch": 2, "source": _OFFLINE}
    return {
        **small_config(steps=4, method=method, checkpoint__every=1),
        "trainable": {"_component_": "trainable/lora", "rank": 4},
    }


def results(run_dir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row["metrics"].items() if not k.startswith(WALL_CLOCK)}
        for row in read_metrics(run_dir)
    ]


def train(config: dict[str, Any], run_dir: Path, **how: Any) -> None:
    with Attempt.open(run_dir) as attempt:
        run_training(config, run_dir, attempt, cache=run_dir.parent / "models", **how)


@pytest.fixture(scope="module")
def undisturbed(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("offline") / "undisturbed"
    train(config, run_dir)
    return run_dir


def adapters(run_dir: Path) -> bytes:
    path = run_dir / "checkpoints" / "step-000004" / "adapter" / "adapter_model.safetensors"
    return path.read_bytes()


def test_a_run_that_stopped_in_between_goes_on_to_the_same_bits(
    config: dict[str, Any], undisturbed: Path
) -> None:
    run_dir = undisturbed.parent / "stopped"
    asked = iter([False, False, True])
    with pytest.raises(PreemptedError):
        train(config, run_dir, should_stop=lambda: next(asked))
    train(config, run_dir)
    assert adapters(run_dir) == adapters(undisturbed)
    assert results(run_dir) == results(undisturbed)


def test_the_divergence_is_zero_where_the_policy_is_still_the_base_model(undisturbed: Path) -> None:
    rows = results(undisturbed)
    assert rows[0]["tokens/generated"] > 0
    assert [row["tokens/generated"] for row in rows[1:]] == [0, 0, 0]
    assert all(row["updates"] == 2 for row in rows)
    assert (
        rows[0]["method/token_weights.gate/base_entropy"] == rows[0]["method/token_weights.gate/own_entropy"]
    )
    assert (
        rows[3]["method/token_weights.gate/base_entropy"] != rows[3]["method/token_weights.gate/own_entropy"]
    )
    assert rows[3]["method/regularizers.anchor/free"] > rows[0]["method/regularizers.anchor/free"]


def test_without_decisions_a_run_does_not_leave_the_base_model(
    config: dict[str, Any], undisturbed: Path
) -> None:
    # Nothing but the divergence, whose gradient is exactly 0 at the start: no weight moves.
    method = {**config["method"], "token_weights": {"gate": {**_GATE, "threshold": 1e9}}}
    run_dir = undisturbed.parent / "gated"
    train({**config, "steps": 2, "method": method}, run_dir)
    rows = results(run_dir)
    assert [row["grad_norm"] for row in rows] == [0, 0]
    assert [row["loss/regularizer/anchor"] for row in rows] == [0, 0]


_GATE = {"_component_": "method/token_weights/base_entropy"}
