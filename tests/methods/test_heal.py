"""HEAL, arXiv:2604.17928: the properties that its card lists, with numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare, score
from tokensweep.loss.tables import Batch
from tokensweep.methods.heal import ApplyTo, Distance, EntropyDynamicsReward, pairwise
from tokensweep.problems.mixture import Mixture
from tokensweep.problems.ops import Ops
from tokensweep.problems.protocol import Problem

Make = Callable[..., Batch]
LN3 = math.log(3)


def distances(*sequences: Sequence[float], distance: Distance = Distance.shape) -> Tensor:
    """[R, R] between the entropies of some rollouts."""
    flat = torch.tensor([x for sequence in sequences for x in sequence])
    return pairwise(flat, torch.tensor([len(sequence) for sequence in sequences]), distance=distance)


def naive(one: list[float], other: list[float]) -> float:
    """KL of the softmax over positions of one sequence from that of another, after stretching the shorter."""
    length = max(len(one), len(other))
    long = [[x[math.floor(t * len(x) / length)] for t in range(length)] for x in (one, other)]
    p, q = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in long)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_distance_is_the_divergence_of_the_entropies_softmax_over_positions() -> None:
    # P = (1/4, 3/4) against (1/2, 1/2): 1/4 ln(1/2) + 3/4 ln(3/2) one way, 1/2 ln 2 + 1/2 ln(2/3) the other
    found = distances([0.0, LN3], [1.0, 1.0])
    assert found[0, 1] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert found[1, 0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert found[0, 1] != pytest.approx(float(found[1, 0]))


def test_the_distance_of_many_lengths_is_that_of_a_plain_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.rand(n, generator=draw).tolist() for n in (5, 9, 3, 7, 5, 1)]
    found = distances(*sequences)
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences):
            assert float(found[i, j]) == pytest.approx(naive(one, other), abs=1e-6)


def test_no_distance_is_negative_and_that_of_equal_sequences_is_exactly_0() -> None:
    draw = torch.Generator().manual_seed(1)
    sequence = (3 * torch.rand(40, generator=draw)).tolist()
    for distance in Distance:
        found = distances(sequence, [x + 0.1 for x in sequence][::-1], sequence, distance=distance)
        assert (found >= 0).all()
        assert found[0, 2] == found[2, 0] == 0


def test_the_released_distance_ignores_the_level_and_the_other_one_measures_it() -> None:
    one, raised = [0.5, 1.0, 0.25], [1.5, 2.0, 1.25]
    assert float(distances(one, raised)[0, 1]) == pytest.approx(0, abs=1e-12)
    assert float(distances(one, raised, distance=Distance.level)[0, 1]) == pytest.approx(1.0)
    # |0.5 - 1| + |1 - 1| + |0.25 - 1| over 3
    level = distances(one, [1.0, 1.0, 1.0], distance=Distance.level)
    assert float(level[0, 1]) == float(level[1, 0]) == pytest.approx(1.25 / 3)


def test_a_shorter_sequence_is_stretched_to_its_nearest_tokens() -> None:
    # 2 tokens over 4 positions: each twice; 3 over 4: floor(t 3 / 4) = 0 0 1 2
    assert distances([0.0, LN3], [0.0, 0.0, LN3, LN3])[0, 1] == 0
    assert distances([5.0, 7.0, 9.0], [5.0, 5.0, 7.0, 9.0])[0, 1] == 0
    assert distances([2.0], [1.0, 1.0, 1.0])[0, 1] == 0  # constant sequences stay constant


def test_a_rollout_without_tokens_is_far_from_all() -> None:
    assert distances([], [1.0])[0, 1] == math.inf


@pytest.fixture
def four(batch_of: Make) -> Batch:
    """Prompts of two rollouts of 2 tokens: target 0 and 1, general 2 and 3.

    Their entropies rise by 0, 4, 1 and 6 nats: 0 and 2 are nearest to each other, and so are 1 and 3.
    """
    batch = batch_of(
        [1, 0, 1, 0], lengths=[2] * 4, prompt_of=[0, 0, 1, 1], old_entropy=[0, 0, 0, 4, 0, 1, 0, 6]
    )
    return replace(batch, facts={"is_target": torch.tensor([1.0, 1, 0, 0])})


def bonus(batch: Batch, **fields: object) -> list[float]:
    return EntropyDynamicsReward(min_len=0, **fields)(batch).tolist()  # type: ignore[arg-type]  # mixed types


def test_the_bonus_goes_to_rollouts_that_are_nearer_to_the_other_domain(four: Batch) -> None:
    assert bonus(four) == [1, 1, 1, 1]
    # rises of 0 and 0.1 against 5 and 6 nats: each is nearest to the other one of its domain
    apart = four.with_columns(old_entropy=torch.tensor([0.0, 0, 0, 0.1, 0, 5, 0, 6]))
    assert bonus(apart) == [0, 0, 0, 0]


def test_in_the_note_only_target_rollouts_can_earn_it(four: Batch) -> None:
    assert bonus(four, apply_to=ApplyTo.target) == [1, 1, 0, 0]


def test_short_rollouts_earn_nothing_but_are_compared_with(batch_of: Make) -> None:
    # The general rollout has one token: as flat as the first target rollout, it is nearer to that than the
    # second one is, and exactly as far from the second one as the first is, which is not nearer.
    batch = batch_of([1, 0, 1], lengths=[2, 2, 1], prompt_of=[0, 0, 1], old_entropy=[1, 1, 0, 4, 2])
    batch = replace(batch, facts={"is_target": torch.tensor([1.0, 1, 0])})
    assert EntropyDynamicsReward(min_len=1)(batch).tolist() == [1, 0, 0]
    assert EntropyDynamicsReward(min_len=0)(batch).tolist() == [1, 0, 1]
    assert EntropyDynamicsReward(min_len=2)(batch).tolist() == [0, 0, 0]
    assert EntropyDynamicsReward()(batch).tolist() == [0, 0, 0]  # 50 in the code


def test_siblings_make_the_bonus_rarer(batch_of: Make) -> None:
    # 0 and 1 answer one target prompt and are alike; 2 answers another one; 3 is general, between 0 and 2
    batch = batch_of(
        [1, 0, 1, 0], lengths=[2] * 4, prompt_of=[0, 0, 1, 2], old_entropy=[0, 0, 0, 0, 0, 6, 0, 1]
    )
    batch = replace(batch, facts={"is_target": torch.tensor([1.0, 1, 1, 0])})
    assert bonus(batch) == [0, 0, 1, 1]
    assert bonus(batch, exclude_siblings=True) == [1, 1, 1, 1]


def test_who_is_alone_in_a_domain_is_near_the_other(batch_of: Make) -> None:
    batch = batch_of([1, 0], lengths=[2, 2], prompt_of=[0, 1], old_entropy=[0, 0, 0, 1])
    batch = replace(batch, facts={"is_target": torch.tensor([1.0, 0])})
    assert bonus(batch) == [1, 1]  # each has a neighbour in the other domain only


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("siblings", [False, True])
def test_a_single_domain_gives_no_bonus(four: Batch, target: float, siblings: bool) -> None:
    one = replace(four, facts={"is_target": torch.full((4,), target)})
    assert bonus(one, exclude_siblings=siblings) == [0, 0, 0, 0]


def test_rewards_are_accuracy_and_bonus_between_0_and_2(
    four: Batch, method_of: Callable[..., Method]
) -> None:
    method = method_of("method=heal", "method.reward_terms.eda.min_len=0")
    assert score(method, four).tolist() == [2, 1, 2, 1]
    rewards = score(method, example_batch())
    assert set(rewards.tolist()) <= {0.0, 1.0, 2.0}
    assert (rewards != example_batch().accuracy).any()


def test_the_preset_holds_what_the_scripts_say(method_of: Callable[..., Method]) -> None:
    method = method_of("method=heal")
    assert method.updates_per_batch == 1
    assert method.regularizers["kl"].coef == 0.001  # type: ignore[attr-defined]  # KLPenalty
    assert method.reward_terms["eda"] == EntropyDynamicsReward(
        weight=1.0, min_len=50, apply_to=ApplyTo.both, exclude_siblings=False, distance=Distance.shape
    )


def test_without_weight_it_is_grpo_with_that_kl(method_of: Callable[..., Method]) -> None:
    off = method_of("method=heal", "method.reward_terms.eda.weight=0", "method.reward_terms.eda.min_len=0")
    base = method_of("method=grpo_kl", "method.regularizers.kl.coef=0.001")
    batch = example_batch()
    now = near_old(batch)
    results = []
    for method in (off, base):
        scored = replace(batch, rewards=score(method, batch))
        results.append(loss_and_gradient(method, prepare(method, scored), now))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_its_numbers_are_told_by_domain(four: Batch, method_of: Callable[..., Method]) -> None:
    method = method_of("method=heal", "method.reward_terms.eda.min_len=0", "~method.regularizers.kl")
    told = prepare(method, four).measured
    eda = {name.removeprefix("reward_terms.eda/"): value for name, value in told.items()}
    assert eda["target/bonus_fraction"] == eda["general/bonus_fraction"] == 1
    assert eda["target/accuracy"] == eda["general/accuracy"] == 0.5
    assert eda["target/entropy"] == pytest.approx(1.0)  # (0 + 2) / 2
    assert eda["general/entropy"] == pytest.approx(1.75)  # (0.5 + 3) / 2
    near = [naive([0, 0], [0, 1]), naive([0, 4], [0, 6])]
    assert eda["target/nearest_general"] == pytest.approx(sum(near) / 2)
    far = [naive([0, 0], [0, 4]), naive([0, 4], [0, 0])]
    assert eda["target/nearest_target"] == pytest.approx(sum(far) / 2)


def test_data_without_domains_are_refused() -> None:
    with pytest.raises(ValueError, match="must compare problems of two domains, got Ops without any"):
        EntropyDynamicsReward().check_source(Ops())
    EntropyDynamicsReward().check_source(Mixture(target=Ops(), general=Ops()))


def test_a_rollout_knows_its_domain() -> None:
    for domain, expected in (("target", 1.0), ("general", 0.0)):
        trial = SimpleNamespace(problem=Problem(id="ops-1", prompt="", answer=None, domain=domain))
        assert EntropyDynamicsReward().facts(trial) == {"is_target": expected}  # type: ignore[arg-type]  # a stub


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="min_len must be at least 0, got -1"):
        EntropyDynamicsReward(min_len=-1)
