"""The packed passes: against a plain padded implementation, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.loss.method import Method, build_method
from tokensweep.loss.objective import Prepared, micro_loss, prepare
from tokensweep.loss.tables import Batch, pack
from tokensweep.models.policy import Policy
from tokensweep.problems.ops import Ops
from tokensweep.registry import build
from tokensweep.train.batch import Plan, divide
from tokensweep.train.passes import Scorer, rows_of, statistics_in
from tokensweep.train.update import Updater

_TEMPERATURE = 0.7
_EPS = 1e-6  # of the group-normalised advantage

Config = dict[str, Any]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Config]) -> Policy:
    model = build(small_config()["model"])
    return Policy(model.materialise(data=Ops(), cache=tmp_path_factory.mktemp("models")))


@pytest.fixture
def method(small_config: Callable[..., Config]) -> Method:
    return build_method(small_config()["method"])


def random_batch(*, constant_group: bool = False) -> Batch:
    """Three groups of four rollouts with random tokens and lengths."""
    generator = torch.Generator().manual_seed(1)

    def ids(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(2, 64, (count,), generator=generator).tolist()

    prompts = [ids(2, 6) for _ in range(3)]
    accuracy = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0 if constant_group else 0.0]
    return pack(
        [prompts[rollout // 4] for rollout in range(12)],
        completions=[ids(1, 8) for _ in range(12)],
        prompt_of=[rollout // 4 for rollout in range(12)],
        accuracy=accuracy,
        truncated=[False] * 12,
        max_tokens=8,
    )


def prepared_of(
    batch: Batch, *, policy: Policy, method: Method, micro_tokens: int = 40
) -> tuple[Prepared, Plan]:
    batch, plan = divide(batch, method=method, micro_tokens=micro_tokens, seed=0)
    old = scorer_of(policy).everywhere(batch, plan=plan)
    return prepare(method, batch.with_columns(old_logprobs=old["logprobs"], old_entropy=old["entropy"])), plan


def scorer_of(policy: Policy) -> Scorer:
    return Scorer(policy=policy, temperature=_TEMPERATURE)


class Still(torch.optim.SGD):
    """An optimiser that moves nothing and remembers the gradient of every step as one vector."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.model.parameters(), lr=0.0)
        self.policy = policy
        self.gradients: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        self.gradients.append(gradient(self.policy))


def update(
    policy: Policy, method: Method, prepared: Prepared, plan: Plan
) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics and unclipped gradients of the trainer's update."""
    optimizer = Still(policy)
    updater = Updater(scorer=scorer_of(policy), optimizer=optimizer, grad_clip=0.0)
    return updater.update(method, prepared, plan), optimizer.gradients


def gradient(policy: Policy) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


def packed_gradient(policy: Policy, batch: Batch, *, method: Method, micro_tokens: int = 40) -> Tensor:
    """The gradient of the one optimiser step that the trainer makes."""
    prepared, plan = prepared_of(batch, policy=policy, method=method, micro_tokens=micro_tokens)
    _, gradients = update(policy, method, prepared, plan)
    assert len(gradients) == 1
    return gradients[0]


def padded_logprobs(policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities [R, T] and completion mask [R, T] from the model's own padded logits."""
    rollouts, width = batch.num_rollouts, int(batch.position.max()) + 1
    ids = torch.zeros(rollouts, width, dtype=torch.int64)
    real, completion = torch.zeros_like(ids), torch.zeros(rollouts, width, dtype=torch.bool)
    ids[batch.sequence_of, batch.position] = batch.token_ids
    real[batch.sequence_of, batch.position] = 1
    completion[batch.rollout_of, batch.position[batch.trained]] = True
    logits = policy.model(input_ids=ids, attention_mask=real).logits / _TEMPERATURE
    logprobs = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return logprobs, completion[:, 1:]


def naive_gradient(policy: Policy, batch: Batch) -> Tensor:
    """GRPO with a token mean, written out for rectangles: at ratio 1 the clip does nothing."""
    rewards = batch.rewards.view(3, 4)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (
        rewards.std(1, keepdim=True, correction=0) + _EPS
    )
    policy.model.zero_grad()
    logprobs, mask = padded_logprobs(policy, batch)
    ratio = (logprobs - logprobs.detach()).exp()
    objective = torch.minimum(ratio, ratio.clamp(0.8, 1.2)) * advantages.view(12, 1)
    (-(objective * mask).sum() / mask.sum()).backward()  # type: ignore[no-untyped-call]  # torch
    return gradient(policy)


def test_the_packed_gradient_is_that_of_a_padded_grpo(policy: Policy, method: Method) -> None:
    batch = random_batch()
    expected = naive_gradient(policy, batch)
    assert expected.norm() > 0.1
    torch.testing.assert_close(
        packed_gradient(policy, batch, method=method),
        expected,
        rtol=1e-5,
        atol=1e-5 * float(expected.abs().max()),
    )


def test_the_size_of_micro_batches_does_not_move_the_gradient(policy: Policy, method: Method) -> None:
    small = packed_gradient(policy, random_batch(), method=method, micro_tokens=12)
    large = packed_gradient(policy, random_batch(), method=method, micro_tokens=4096)
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6 * float(large.abs().max()))


def test_the_packed_logprobs_are_those_of_the_padded_model(policy: Policy, method: Method) -> None:
    batch = random_batch()
    prepared, _ = prepared_of(batch, policy=policy, method=method)
    with torch.no_grad():
        logprobs, mask = padded_logprobs(policy, batch)
    torch.testing.assert_close(prepared.batch.columns["old_logprobs"], logprobs[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("constant_group", [False, True])
def test_every_ratio_is_exactly_1_before_the_first_step(
    policy: Policy, method: Method, constant_group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(method: Method, micro: Any, logprobs: Tensor, entropy: Tensor, **rest: Any) -> Any:
        seen.append(logprobs.detach() - micro.table.columns["old_logprobs"])
        return micro_loss(method, micro, logprobs, entropy, **rest)

    monkeypatch.setattr("tokensweep.train.update.micro_loss", spy)
    prepared, plan = prepared_of(random_batch(constant_group=constant_group), policy=policy, method=method)
    update(policy, method, prepared, plan)
    assert len(seen) > 1
    assert all((log_ratio == 0).all() for log_ratio in seen)


def test_a_group_of_equal_rewards_is_not_run_in_the_update(
    policy: Policy, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, plan = prepared_of(random_batch(constant_group=True), policy=policy, method=method)
    run: list[int] = []

    original = Scorer.stats

    def spy(self: Scorer, batch: Batch, *, rollouts: Tensor, rows: Tensor) -> Any:
        run.extend(rollouts.tolist())
        return original(self, batch, rollouts=rollouts, rows=rows)

    monkeypatch.setattr(Scorer, "stats", spy)
    update(policy, method, prepared, plan)
    assert sorted(run) == list(range(8))  # the third group, rollouts 8 to 11, has one reward only


@pytest.mark.parametrize("micro_tokens", [40, 4096])
def test_a_first_pack_that_is_run_ahead_gives_the_same_gradients_with_one_forward_less(
    policy: Policy, method: Method, micro_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, plan = prepared_of(random_batch(), policy=policy, method=method, micro_tokens=micro_tokens)
    _, expected = update(policy, method, prepared, plan)
    ahead = scorer_of(policy).ahead(prepared.batch, plan=plan)
    run: list[Tensor] = []
    original = Scorer.stats

    def spy(self: Scorer, batch: Batch, *, rollouts: Tensor, rows: Tensor) -> Any:
        run.append(rollouts)
        return original(self, batch, rollouts=rollouts, rows=rows)

    monkeypatch.setattr(Scorer, "stats", spy)
    optimizer = Still(policy)
    updater = Updater(scorer=scorer_of(policy), optimizer=optimizer, grad_clip=0.0)
    updater.update(method, prepared, plan, ahead=ahead)
    assert len(run) == sum(len(micro.packs) for mini in plan for micro in mini) - 1
    torch.testing.assert_close(optimizer.gradients, expected, rtol=1e-5, atol=1e-6)


def test_the_old_policy_pass_does_not_run_what_was_run_ahead(policy: Policy, method: Method) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    scorer = scorer_of(policy)
    ahead = scorer.ahead(batch, plan=plan)
    whole, again = scorer.everywhere(batch, plan=plan, ahead=ahead), scorer.everywhere(batch, plan=plan)
    assert torch.equal(whole["logprobs"], again["logprobs"])
    assert not whole["logprobs"].requires_grad
    assert ahead.stats.logprobs.requires_grad


def test_hidden_states_are_those_after_each_token_and_only_there_when_asked_for(
    policy: Policy, method: Method
) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    scorer = scorer_of(policy)
    assert "hidden" not in scorer.everywhere(batch, plan=plan)
    needs = frozenset({"hidden"})
    ahead = scorer.ahead(batch, plan=plan, needs=needs)
    found = scorer.everywhere(batch, plan=plan, needs=needs, ahead=ahead)["hidden"]
    assert ahead.stats.hidden is not None
    assert not ahead.stats.hidden.requires_grad
    expected = []
    for rollout in range(batch.num_rollouts):
        own = batch.sequence_of == rollout
        states = policy.model.base_model(input_ids=batch.token_ids[own][None]).last_hidden_state[0]
        expected.append(states[-int(batch.lengths[rollout]) :].detach())  # completions end a sequence
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_rows_of_a_pack_run_ahead_are_those_of_its_statistics(policy: Policy, method: Method) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    ahead = scorer_of(policy).ahead(batch, plan=plan)
    whole = scorer_of(policy).everywhere(batch, plan=plan)
    rows = ahead.rows[torch.arange(1, len(ahead.rows), 2)]
    logprobs, entropy = ahead.at(rows)
    assert torch.equal(logprobs, whole["logprobs"][rows])
    assert torch.equal(entropy, whole["entropy"][rows])


def test_fractions_are_of_all_tokens_also_where_a_micro_batch_is_not_run(
    policy: Policy, method: Method
) -> None:
    batch = random_batch(constant_group=True)
    prepared, plan = prepared_of(batch, policy=policy, method=method, micro_tokens=1)  # a rollout each
    metrics, _ = update(policy, method, prepared, plan)
    signal = int(batch.lengths[:8].sum()) / int(batch.lengths.sum())  # the third group has one reward only
    assert metrics["loss/signal_fraction"] == pytest.approx(signal)
    assert metrics["loss/kept_fraction"] == 1.0


def test_a_batch_without_signal_makes_no_step(policy: Policy, method: Method) -> None:
    equal = torch.ones(12)
    batch = replace(random_batch(), accuracy=equal, rewards=equal)
    prepared, plan = prepared_of(batch, policy=policy, method=method)
    metrics, gradients = update(policy, method, prepared, plan)
    assert gradients == []
    assert (metrics["updates"], metrics["skipped_updates"], metrics["grad_norm"]) == (0, 1, 0)


def test_statistics_beyond_entropy_come_only_when_asked_for(policy: Policy, method: Method) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    asked = scorer_of(policy).everywhere(batch, plan=plan, needs=frozenset({"varentropy"}))
    assert set(asked) == {"logprobs", "entropy", "varentropy"}
    assert set(scorer_of(policy).everywhere(batch, plan=plan)) == {"logprobs", "entropy"}


def test_states_of_a_few_tokens_are_those_of_the_pass(policy: Policy, method: Method) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    rows = torch.arange(3, batch.num_tokens, 5)
    states = scorer_of(policy).states(batch, rows=rows)
    target = batch.token_ids[batch.trained[rows]]
    logprobs = torch.log_softmax(policy.head.logits(states.hidden) / _TEMPERATURE, 1)
    expected = scorer_of(policy).everywhere(batch, plan=plan)["logprobs"][rows]
    torch.testing.assert_close(logprobs.gather(1, target[:, None])[:, 0], expected)
    one_hot = torch.nn.functional.one_hot(target, logprobs.shape[1])
    torch.testing.assert_close(states.pull, (one_hot - logprobs.exp()) / _TEMPERATURE)


def test_a_component_may_ask_for_any_statistic_of_the_old_policy() -> None:
    needs = frozenset({"old_logprobs", "old_varentropy", "old_sum_p2c", "ref_logprobs", "entropy"})
    assert statistics_in(needs, of="old") == {"logprobs", "varentropy", "sum_p2c"}
    assert statistics_in(needs, of="new") == set()


def test_bfloat16_moves_the_logprobs_by_no_more_than_its_rounding(policy: Policy, method: Method) -> None:
    batch, plan = divide(random_batch(), method=method, micro_tokens=40, seed=0)
    exact = scorer_of(policy).everywhere(batch, plan=plan)["logprobs"]
    rounded = replace(scorer_of(policy), dtype=torch.bfloat16).everywhere(batch, plan=plan)["logprobs"]
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.02


def test_the_divergence_from_a_reference_is_that_of_the_whole_distributions(
    policy: Policy, tmp_path: Path, small_config: Callable[..., Config]
) -> None:
    # The padding-free forwards of two models against softmax tables of one sequence at a time, in float64.
    policy.save(tmp_path)
    moved = Policy(tmp_path)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for x in moved.model.parameters():
            x.add_(0.05 * torch.randn(x.shape, generator=draw))
    batch, plan = divide(
        random_batch(), method=build_method(small_config()["method"]), micro_tokens=40, seed=0
    )
    rollouts = plan[0][0].packs[0]
    rows = rows_of(batch, rollouts)
    stats, divergence = scorer_of(moved).beside(scorer_of(policy), batch, rollouts=rollouts, rows=rows)
    expected = torch.cat([dense_divergence(moved, policy, batch, rollout) for rollout in rollouts.tolist()])
    torch.testing.assert_close(divergence.double(), expected, rtol=1e-4, atol=1e-6)
    assert float(expected.detach().min()) > 1e-4
    alone = scorer_of(moved).stats(batch, rollouts=rollouts, rows=rows)
    assert torch.equal(stats.logprobs, alone.logprobs)

    names = ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight")
    parameters = [dict(moved.model.named_parameters())[name] for name in names]
    got = torch.autograd.grad(divergence.sum(), parameters)
    dense = torch.autograd.grad(expected.sum(), parameters)
    for mine, theirs in zip(got, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def dense_divergence(policy: Policy, reference: Policy, batch: Batch, rollout: int) -> Tensor:
    """KL(reference || policy) at the trained tokens of one rollout, from tables of all words, float64."""
    ids = batch.token_ids[batch.sequence_of == rollout]
    first = len(ids) - int(batch.lengths[rollout])
    bounds = torch.tensor([0, len(ids)])
    log_p, log_q = (
        (each.head.logits(each.hidden(ids, bounds)).double() / _TEMPERATURE).log_softmax(-1)[first - 1 : -1]
        for each in (policy, reference)
    )
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def test_a_policy_that_has_not_moved_has_a_divergence_of_exactly_zero(
    policy: Policy, small_config: Callable[..., Config]
) -> None:
    batch, plan = divide(
        random_batch(), method=build_method(small_config()["method"]), micro_tokens=40, seed=0
    )
    rollouts = plan[0][0].packs[0]
    scorer = scorer_of(policy)
    _, divergence = scorer.beside(scorer, batch, rollouts=rollouts, rows=rows_of(batch, rollouts))
    assert (divergence == 0).all()
