"""Sampling rules, worked out by hand, and the engines that draw by them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from tests.rollout.test_engines import PROMPTS, loaded, requests
from torch import Tensor

from tokensweep.models.policy import Policy
from tokensweep.registry import build
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.fake import FakeEngine
from tokensweep.rollout.protocol import Ruled
from tokensweep.rollout.reference import HfEngine
from tokensweep.rollout.rules import Cuts, Rule, TwoTemperatures, pairs_of, rule_of

ENGINES = [TorchEngine, HfEngine]
SPEC = SamplingSpec(max_tokens=8)


def drawn_from(rule: Rule, *probabilities: float, done: int = 99) -> list[float]:
    """The distribution after the rule where the model's is this."""
    logits = torch.tensor([probabilities]).log()
    row: list[float] = rule(logits, torch.tensor([done])).softmax(-1)[0].tolist()
    return row


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Cuts(delta=0.1, top_k=5), [0, 1 / 3, 0, 1 / 3, 1 / 3]),  # 0.4, 0.3 and 0.2 reach 0.1
        (Cuts(delta=0.1, top_k=2), [0, 0.5, 0, 0, 0.5]),  # the top 2 are 0.4 and 0.3
        (Cuts(delta=0.25, top_k=5), [0, 0.5, 0, 0, 0.5]),
        (Cuts(delta=0.0, top_k=3), [0, 1 / 3, 0, 1 / 3, 1 / 3]),  # no threshold: uniform over the top K
        (Cuts(delta=0.03, top_k=1), [0, 0, 0, 0, 1]),  # greedy
        (Cuts(delta=0.9, top_k=2), [0, 0.5, 0, 0, 0.5]),  # nothing reaches it: the whole top K
        (Cuts(delta=0.0, top_k=9), [0.2] * 5),  # K above V
    ],
)
def test_cuts_is_uniform_over_the_likely_of_the_top(rule: Cuts, expected: list[float]) -> None:
    assert drawn_from(rule, 0.04, 0.3, 0.06, 0.2, 0.4) == pytest.approx(expected, abs=1e-6)


def test_a_token_whose_probability_is_the_threshold_survives() -> None:
    # With > instead of >= the likeliest token would survive alone.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    rule = Cuts(delta=float(logits.softmax(-1)[0, 1]))
    assert drawn_from(rule, 0.5, 0.25, 0.25) == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_the_first_tokens_are_drawn_as_without_cuts() -> None:
    rule, table = Cuts(delta=0.1, top_k=2, warm_up=3), (0.1, 0.5, 0.4)
    for done in (0, 1, 2):
        assert drawn_from(rule, *table, done=done) == pytest.approx(table)
    assert drawn_from(rule, *table, done=3) == pytest.approx([0, 0.5, 0.5])


def test_cuts_reads_each_row_and_its_place_alone() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)) * 2
    done = torch.tensor([0, 9, 4, 5])
    rule = Cuts()
    before = logits.clone()
    together = rule(logits, done)
    alone = [rule(logits[row : row + 1], done[row : row + 1])[0] for row in range(4)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(logits, before)
    assert torch.equal(together[0], logits[0])
    assert torch.equal(together[2], logits[2])  # the fifth token is the last of the warm-up
    assert not torch.equal(together[3], logits[3])


def test_the_likeliest_token_survives_where_it_reaches_the_threshold() -> None:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1)) * 3
    kept = Cuts()(logits, torch.full((200,), 9)) == 0
    reaches = logits.softmax(-1).amax(-1) >= 0.03
    assert reaches.any()
    assert bool(kept[torch.arange(200), logits.argmax(-1)][reaches].all())
    assert int(kept.sum(-1).max()) <= 5
    top = logits.topk(5, dim=-1).indices
    assert bool(torch.zeros_like(kept).scatter(-1, top, True)[kept].all())


def test_temperature_follows_the_entropy_of_the_next_token() -> None:
    # log 2 = 0.693 nats is above 0.672, the entropy of (0.9, 0.1) is 0.325.
    rule = TwoTemperatures(high=0.5, low=2.0)
    assert drawn_from(rule, 0.5, 0.5) == pytest.approx([0.5, 0.5])
    # Above: (0.6, 0.2, 0.2), 0.950 nats; at T 0.5 the squares 0.36, 0.04, 0.04.
    assert drawn_from(rule, 0.6, 0.2, 0.2) == pytest.approx([36 / 44, 4 / 44, 4 / 44], abs=1e-6)
    # Below: at T 2 the roots of 0.9 and 0.1, that is 3 to 1.
    assert drawn_from(rule, 0.9, 0.1) == pytest.approx([0.75, 0.25], abs=1e-6)
    assert drawn_from(rule, 1.0, 0.0) == [1.0, 0.0]  # entropy 0, in spite of 0 log 0


def test_the_entropy_at_the_threshold_takes_the_low_temperature() -> None:
    entropy = float(torch.special.entr(torch.tensor([0.8, 0.2]).log().softmax(-1)).sum())
    at = TwoTemperatures(high=1.0, low=0.5, threshold=entropy)
    assert drawn_from(at, 0.8, 0.2) == pytest.approx([64 / 68, 4 / 68], abs=1e-6)
    below = TwoTemperatures(high=1.0, low=0.5, threshold=entropy - 1e-4)
    assert drawn_from(below, 0.8, 0.2) == pytest.approx([0.8, 0.2], abs=1e-6)


@pytest.mark.parametrize(
    "rule", [None, Cuts(), Cuts(delta=0.01, top_k=9, warm_up=0), TwoTemperatures(high=1.3)]
)
def test_a_rule_survives_the_trip_in_a_request(rule: Rule | None) -> None:
    pairs = pairs_of(rule)
    assert rule_of(pairs) == rule
    assert rule_of((("ban", 3.0), *pairs)) == rule
    assert all(isinstance(value, float) for _, value in pairs)


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ((("rule/unknown/x", 1.0),), r"one of the rules \['cuts', 'two_temperatures'\], got unknown"),
        ((*pairs_of(Cuts()), *pairs_of(TwoTemperatures())), "got cuts, two_temperatures"),
    ],
)
def test_unknown_rules_and_two_at_once_are_refused(pairs: tuple[tuple[str, float], ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rule_of(pairs)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"_component_": "eval/rule/cuts", "delta": -0.1}, r"delta must be in \[0, 1\]"),
        ({"_component_": "eval/rule/cuts", "top_k": 0}, "top_k must be at least 1"),
        ({"_component_": "eval/rule/cuts", "warm_up": -1}, "warm_up at least 0"),
        ({"_component_": "eval/rule/two_temperatures", "high": 0}, "high and low must be above 0"),
        ({"_component_": "eval/rule/two_temperatures", "threshold": -1}, "at least 0 nats"),
    ],
)
def test_rules_out_of_range_are_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(fields)


@pytest.mark.parametrize(
    ("rule", "sampling", "told"),
    [
        (Cuts(), {"top_p": 0.9}, "top_p 1 and top_k 0, got 1, 0.9 and 0"),
        (Cuts(), {"top_k": 4}, "uniformly from its survivors"),
        (Cuts(), {"temperature": 0.0}, "temperature must be above 0"),
        (TwoTemperatures(), {"temperature": 0.6}, "temperature must be 1, got 0.6"),
    ],
)
def test_a_rule_refuses_what_would_undo_it(rule: Rule, sampling: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rule.check(replace(SPEC, **sampling))  # type: ignore[arg-type]  # ints and floats mixed
    rule.check(SPEC)


def ruled(rule: Rule | None, asked: list[Request]) -> list[Request]:
    return [replace(request, rules=pairs_of(rule)) for request in asked]


@torch.no_grad()
def tables(policy: Policy, request: Request, rollout: Rollout) -> Tensor:
    """The model's logits of every token of a completion, [T, V], by one ordinary forward."""
    ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
    logits: Tensor = policy.model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1]
    return logits


@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("rule", [Cuts(warm_up=3), TwoTemperatures(high=1.5, low=0.5, threshold=1.0)])
def test_reported_logprobs_are_of_the_distribution_that_was_drawn_from(
    policy: Policy, make: type[TorchEngine | HfEngine], rule: Rule
) -> None:
    asked = ruled(rule, requests())
    for request, rollout in zip(asked, loaded(make(), policy).generate(asked), strict=True):
        logits = tables(policy, request, rollout)
        expected = rule(logits, torch.arange(len(logits))).log_softmax(-1)
        of_tokens = [float(expected[i, token]) for i, token in enumerate(rollout.completion_ids)]
        assert rollout.sampler_logprobs == pytest.approx(of_tokens, abs=1e-4)


@pytest.mark.parametrize("make", ENGINES)
def test_after_the_warm_up_every_token_is_one_of_equal_survivors(
    policy: Policy, make: type[TorchEngine | HfEngine]
) -> None:
    asked = ruled(Cuts(warm_up=3), requests(per_prompt=4))
    equal = [-math.log(j) for j in range(1, 6)]
    for rollout in loaded(make(), policy).generate(asked):
        for value in rollout.sampler_logprobs[3:]:
            assert min(abs(value - each) for each in equal) < 1e-5


def test_draws_are_uniform_on_the_survivors(policy: Policy) -> None:
    spec = SamplingSpec(max_tokens=1)
    rule = Cuts(delta=0.0, top_k=4, warm_up=0)
    asked = [
        Request(prompt_ids=PROMPTS[0], seed=seed, sampling=spec, rules=pairs_of(rule)) for seed in range(2000)
    ]
    drawn = torch.tensor([r.completion_ids[0] for r in loaded(TorchEngine(), policy).generate(asked)])
    with torch.no_grad():
        top = policy.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].topk(4).indices
    counts = [int((drawn == token).sum()) for token in top]
    assert sum(counts) == 2000
    assert chisquare(counts).pvalue > 0.01


def test_warm_up_tokens_are_those_of_the_request_without_the_rule(policy: Policy) -> None:
    engine = loaded(TorchEngine(), policy)
    plain = engine.generate(requests())
    cut = engine.generate(ruled(Cuts(warm_up=4), requests()))
    for one, other in zip(plain, cut, strict=True):
        assert one.completion_ids[:4] == other.completion_ids[:4]
        assert one.sampler_logprobs[:4] == pytest.approx(other.sampler_logprobs[:4], abs=1e-4)
    assert [r.completion_ids for r in plain] != [r.completion_ids for r in cut]


def test_requests_with_and_without_rules_in_one_call_are_kept_apart(policy: Policy) -> None:
    plain, cut = requests(), ruled(Cuts(warm_up=0), requests())
    engine = loaded(TorchEngine(), policy)
    mixed = engine.generate([each for pair in zip(plain, cut, strict=True) for each in pair])
    assert mixed[0::2] == engine.generate(plain)
    assert mixed[1::2] == engine.generate(cut)


def test_equal_temperatures_are_that_temperature(policy: Policy) -> None:
    engine = loaded(TorchEngine(), policy)
    by_rule = engine.generate(ruled(TwoTemperatures(high=0.7, low=0.7), requests()))
    by_spec = engine.generate(requests(temperature=0.7))
    assert [r.completion_ids for r in by_rule] == [r.completion_ids for r in by_spec]


@pytest.mark.parametrize("make", ENGINES)
def test_names_that_are_no_rule_are_refused_where_nothing_would_read_them(
    policy: Policy, make: type[TorchEngine | HfEngine]
) -> None:
    asked = [replace(request, rules=(("ban", 3.0),)) for request in requests(per_prompt=1)]
    with pytest.raises(ValueError, match="no logits processors, so it can not follow ban"):
        loaded(make(), policy).generate(asked)


def test_an_engine_that_draws_no_tokens_refuses_rules(policy: Policy) -> None:
    with pytest.raises(ValueError, match="rollout=fake draws no tokens"):
        loaded(FakeEngine(), policy).generate(ruled(Cuts(), requests(per_prompt=1)))
    assert not isinstance(FakeEngine(), Ruled)
    assert all(isinstance(make(), Ruled) for make in ENGINES)
