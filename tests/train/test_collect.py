"""Collecting a batch: data order, rounds of an allocation, seeds."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor

from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.slots import Allocation
from tokensweep.methods.dapo import DynamicSampling
from tokensweep.methods.grpo import PlainSampling, UniformAllocation
from tokensweep.methods.mixed_cuts import MixedCuts
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.rollout.rules import Cuts, pairs_of
from tokensweep.seeds import derive_seed
from tokensweep.train.collect import Collected, Collector, problem_index

Even = importlib.import_module("easy_task").Even


@dataclass
class Scripted:
    """An engine whose completion says whether the rollout is right: ``outcomes`` by prompt and sample."""

    right: Any  # (problem number, sample number within the call) -> bool

    def load(self, policy: Any, *, version: int) -> None:
        return

    def rest(self) -> None:
        return

    def close(self) -> None:
        return

    def generate(self, requests: Sequence[Request], *, progress: Any = None) -> list[Rollout]:
        seen: dict[int, int] = {}
        rollouts = []
        for request in requests:
            number = request.prompt_ids[0]
            sample = seen.get(number, 0)
            seen[number] = sample + 1
            token = 0 if self.right(number, sample) else 1
            rollouts.append(
                Rollout(
                    completion_ids=(token,), sampler_logprobs=(0.0,), finish_reason="stop", weights_version=0
                )
            )
        return rollouts


def collector(right: Any, *, size: int = 10, prompts: int = 2) -> Collector:
    return Collector(
        source=Even(size=size),
        indices=tuple(range(size)),
        engine=Scripted(right),
        encode=lambda text: (int(text.removesuffix("=")),),
        decode=lambda ids: str(ids[0]),  # "0" is even, hence right
        sampling=SamplingSpec(max_tokens=4),
        num_prompts=prompts,
        group_size=2,
        seed=0,
    )


@dataclass
class Broken(Scripted):
    """An engine that gives these log-probabilities with every rollout of one token."""

    logprobs: tuple[float, ...] = ()

    def generate(self, requests: Sequence[Request], *, progress: Any = None) -> list[Rollout]:
        drawn = super().generate(requests)
        return [replace(rollout, sampler_logprobs=self.logprobs) for rollout in drawn]


@pytest.mark.parametrize(
    ("logprobs", "said"),
    [
        ((), "of 4 tokens 4 have none and 0 one that is no finite number"),
        ((math.nan,), "of 4 tokens 0 have none and 4 one"),
        ((-math.inf,), "of 4 tokens 0 have none and 4 one"),
    ],
)
def test_log_probabilities_that_are_no_numbers_are_refused_with_engine_and_count(
    logprobs: tuple[float, ...], said: str
) -> None:
    broken = replace(collector(mixed), engine=Broken(mixed, logprobs=logprobs))
    with pytest.raises(ValueError, match=f"^Broken must give a finite log-probability .* {said}"):
        broken.collect(step=1, position=0, allocation=UniformAllocation(), sampling=PlainSampling())


def test_sampling_and_grading_are_timed_apart() -> None:
    phases: list[str] = []

    def phase(name: str) -> nullcontext[None]:
        phases.append(name)
        return nullcontext()

    collector(mixed).collect(
        step=1, position=0, allocation=UniformAllocation(), sampling=PlainSampling(), phase=phase
    )
    assert phases == ["generate", "grade"]


def mixed(number: int, sample: int) -> bool:
    return sample == 0


def test_an_epoch_draws_every_problem_once_and_the_next_in_another_order() -> None:
    first = [problem_index(position, size=50, seed=3) for position in range(50)]
    second = [problem_index(position, size=50, seed=3) for position in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_the_data_order_depends_on_the_seed() -> None:
    assert [problem_index(p, size=50, seed=0) for p in range(50)] != [
        problem_index(p, size=50, seed=1) for p in range(50)
    ]


def test_uniform_allocation_keeps_every_group_of_one_round() -> None:
    collected = collector(lambda number, sample: True).collect(
        step=1, position=5, allocation=UniformAllocation(), sampling=PlainSampling()
    )
    assert (collected.rounds, collected.position) == (1, 7)
    assert collected.kept == collected.sampled
    assert [len(group) for group in collected.kept] == [2, 2]


def test_dynamic_sampling_asks_for_new_prompts_until_enough_groups_are_mixed() -> None:
    order = [problem_index(position, size=10, seed=0) for position in range(10)]
    good = {order[0], order[3], order[5]}

    def right(number: int, sample: int) -> bool:
        return number in good and sample == 0

    allocation = DynamicSampling(oversample=1.0, max_rounds=10)
    collected = collector(right, prompts=3).collect(
        step=1, position=0, allocation=allocation, sampling=PlainSampling()
    )
    assert [group[0].problem.id for group in collected.kept] == [f"even-{order[i]}" for i in (0, 3, 5)]
    assert len(collected.sampled) == collected.position
    assert collected.rounds == 3  # positions 0-2 give one group, 3-4 another, 5 the last


def test_surplus_groups_are_cut() -> None:
    collected = collector(mixed).collect(
        step=1,
        position=0,
        allocation=DynamicSampling(oversample=3.0, max_rounds=10),
        sampling=PlainSampling(),
    )
    assert (len(collected.sampled), len(collected.kept)) == (6, 2)


def test_the_round_cap_ends_a_step_with_what_is_there() -> None:
    allocation = DynamicSampling(oversample=1.0, max_rounds=3)
    collected = collector(lambda number, sample: False).collect(
        step=1, position=0, allocation=allocation, sampling=PlainSampling()
    )
    assert (collected.rounds, collected.kept) == (3, ())


def test_a_problem_that_comes_twice_in_a_step_gets_new_samples() -> None:
    collected = collector(mixed, size=1).collect(
        step=1, position=0, allocation=UniformAllocation(), sampling=PlainSampling()
    )
    trials = [trial for group in collected.kept for trial in group]
    assert [trial.sample for trial in trials] == [0, 1, 2, 3]
    assert len({trial.request.seed for trial in trials}) == 4


def test_sampling_seeds_depend_on_the_step_and_not_on_the_number_of_prompts() -> None:
    def seeds(step: int, *, prompts: int) -> list[int]:
        collected = collector(mixed, prompts=prompts).collect(
            step=step, position=0, allocation=UniformAllocation(), sampling=PlainSampling()
        )
        return [trial.request.seed for trial in collected.kept[0]]

    assert seeds(1, prompts=1) == seeds(1, prompts=3)
    assert not set(seeds(1, prompts=1)) & set(seeds(2, prompts=1))


def test_a_thought_that_the_prompt_opened_stands_before_the_text_that_is_graded() -> None:
    thinking = replace(
        collector(mixed), decode=lambda ids: f"{ids[0]}\nAssistant: <think>\n" if ids[0] > 1 else str(ids[0])
    )
    groups = thinking.collect(
        step=1, position=0, allocation=UniformAllocation(), sampling=PlainSampling()
    ).kept
    texts = {trial.problem.prompt: [each.text for each in group] for group in groups for trial in group[:1]}
    plain = {prompt: text for prompt, text in texts.items() if prompt in ("0=", "1=")}
    thought = {prompt: text for prompt, text in texts.items() if prompt not in plain}
    assert thought
    assert all(text == ["<think>0", "<think>1"] for text in thought.values())
    assert all(text == ["0", "1"] for text in plain.values())


@dataclass(frozen=True)
class FirstOnly(Allocation):
    """Keeps a group if its first rollout is right; three rounds of one prompt."""

    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        return [0] * outcomes.round + [2] if outcomes.round < 3 else []

    def keep(self, accuracy: Tensor) -> bool:
        return bool(accuracy[0])


def test_an_allocation_sees_the_grades_in_the_order_of_sampling() -> None:
    both = collector(mixed).collect(step=1, position=0, allocation=FirstOnly(), sampling=PlainSampling())
    none = replace(collector(mixed), engine=Scripted(lambda n, s: s == 1)).collect(
        step=1, position=0, allocation=FirstOnly(), sampling=PlainSampling()
    )
    assert (len(both.kept), len(none.kept), none.rounds) == (2, 0, 3)


def test_rules_are_of_places_in_a_group_and_seeds_do_not_depend_on_them() -> None:
    mixed_cuts = MixedCuts(share=0.5)
    plain, ruled = (
        collector(mixed, size=1).collect(
            step=1, position=0, allocation=UniformAllocation(), sampling=sampling
        )
        for sampling in (PlainSampling(), mixed_cuts)
    )
    requests = [trial.request for group in ruled.kept for trial in group]  # one problem, drawn twice
    assert [request.rules for request in requests] == [(), pairs_of(Cuts())] * 2
    same = [replace(request, rules=()) for request in requests]
    assert same == [trial.request for group in plain.kept for trial in group]


def drawn(collected: Collected) -> list[list[tuple[str, int, int]]]:
    return [
        [(trial.problem.id, trial.sample, trial.request.seed) for trial in group]
        for group in collected.sampled
    ]


def group(position: int, *samples: int) -> list[tuple[str, int, int]]:
    """What a group of the fourth step must hold: the data's order and the seeds of the run, spelled out."""
    number = f"even-{problem_index(position, size=10, seed=0)}"
    return [(number, sample, derive_seed(0, "rollout", 4, number, sample)) for sample in samples]


def test_uniform_and_dynamic_sampling_draw_the_seeds_of_step_problem_and_sample() -> None:
    uniform = collector(mixed).collect(
        step=4, position=6, sampling=PlainSampling(), allocation=UniformAllocation()
    )
    assert drawn(uniform) == [group(6, 0, 1), group(7, 0, 1)]
    order = [problem_index(position, size=10, seed=0) for position in range(10)]
    good = {order[1], order[3]}
    dynamic = collector(lambda number, sample: number in good and sample == 0).collect(
        step=4, position=0, sampling=PlainSampling(), allocation=DynamicSampling()
    )
    assert drawn(dynamic) == [group(position, 0, 1) for position in range(4)]  # rounds of 2, 1 and 1
    assert (dynamic.rounds, dynamic.position) == (3, 4)


@dataclass(frozen=True)
class Rounds(Allocation):
    """Asks for these counts, round by round."""

    counts: tuple[tuple[int, ...], ...]

    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        return self.counts[outcomes.round] if outcomes.round < len(self.counts) else ()

    def keep(self, accuracy: Tensor) -> bool:
        return True

    def sampling_metrics(self, outcomes: Outcomes) -> dict[str, float]:
        return {"rounds": float(outcomes.round)}


def test_a_prompt_that_was_drawn_gets_more_rollouts_with_the_seeds_that_follow() -> None:
    collected = collector(mixed, prompts=3).collect(
        step=4, position=0, sampling=PlainSampling(), allocation=Rounds(((2, 1), (0, 3, 2), (1,) * 3))
    )
    assert drawn(collected) == [group(0, 0, 1, 2), group(1, 0, 1, 2, 3, 4), group(2, 0, 1, 2)]
    assert (collected.rounds, collected.position, collected.metrics) == (3, 3, {"allocation/rounds": 3.0})


def test_groups_of_one_problem_share_its_numbers_in_the_order_of_sampling() -> None:
    collected = collector(mixed, size=1).collect(
        step=4, position=0, sampling=PlainSampling(), allocation=Rounds(((1, 2), (2, 1)))
    )
    assert [[trial.sample for trial in each] for each in collected.sampled] == [[0, 3, 4], [1, 2, 5]]


@pytest.mark.parametrize("counts", [((2, 2), (1,)), ((2, 2), (0, 1, 0)), ((2, 2), (-1, 3))])
def test_counts_that_no_prompt_can_have_are_refused(counts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="a number of rollouts for each of the 2 prompts drawn so far"):
        collector(mixed).collect(step=1, position=0, sampling=PlainSampling(), allocation=Rounds(counts))
