"""Sampling rules in vLLM: the logits processor in both of its runners, and by a server of the CPU build."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.rollout.vllm.conftest import SMALL, worst
from tests.rollout.vllm.test_engine import requests

from tokensweep.models.policy import Policy
from tokensweep.rollout import Request
from tokensweep.rollout.rules import Cuts, Rule, TwoTemperatures, pairs_of
from tokensweep.rollout.vllm import EngineError, VllmEngine

_PARITY = 1e-4  # nats, float32
CUTS = Cuts(warm_up=3)
HOT = TwoTemperatures(high=1.5, low=0.5, threshold=1.0)


@pytest.fixture(scope="module")
def ruled_engine() -> Iterator[VllmEngine]:
    """One server that reads rules, for the whole file."""
    engine = VllmEngine(**SMALL)  # type: ignore[arg-type]  # values of several types
    engine.expect_rules()
    yield engine
    engine.close()


@pytest.fixture
def engine(ruled_engine: VllmEngine, policy: Policy) -> VllmEngine:
    """The engine with the policy's weights."""
    ruled_engine.load(policy, version=0)
    return ruled_engine


def ruled(rule: Rule | None, asked: list[Request]) -> list[Request]:
    return [replace(request, rules=pairs_of(rule)) for request in asked]


@pytest.mark.parametrize("rule", [CUTS, HOT])
def test_logprobs_are_of_the_rule_that_the_embedded_engine_has(
    engine: VllmEngine, policy: Policy, rule: Rule
) -> None:
    asked = ruled(rule, requests(per_prompt=4))
    for request, rollout in zip(asked, engine.generate(asked), strict=True):
        ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1]
        table = rule(logits, torch.arange(len(logits))).log_softmax(-1)
        expected = [float(table[i, token]) for i, token in enumerate(rollout.completion_ids)]
        assert worst(rollout.sampler_logprobs, expected) < _PARITY


def test_a_mixed_batch_follows_each_requests_own_rule(engine: VllmEngine) -> None:
    """Many short completions in few places: requests come, go and move while others go on."""
    plain = requests(per_prompt=12, max_tokens=9)
    plain = [
        replace(request, sampling=replace(request.sampling, max_tokens=4 + index % 6))
        for index, request in enumerate(plain)
    ]
    rules = [None, CUTS, HOT, Cuts(warm_up=0, top_k=2)]
    asked = [replace(request, rules=pairs_of(rules[index % 4])) for index, request in enumerate(plain)]
    together = engine.generate(asked)
    for index, request in enumerate(asked[:12]):
        assert engine.generate([request])[0].completion_ids == together[index].completion_ids
    for index, rollout in enumerate(together):
        halves = [abs(value + math.log(2)) < 1e-5 or abs(value) < 1e-5 for value in rollout.sampler_logprobs]
        assert all(halves) == (index % 4 == 3)
    assert [r.completion_ids for r in together[0::4]] == [
        r.completion_ids for r in engine.generate(plain[0::4])
    ]


def test_after_the_warm_up_every_token_is_one_of_equal_survivors(engine: VllmEngine) -> None:
    asked = requests(per_prompt=4)
    equal = [-math.log(j) for j in range(1, 6)]
    for one, other in zip(engine.generate(asked), engine.generate(ruled(CUTS, asked)), strict=True):
        assert one.completion_ids[:3] == other.completion_ids[:3]
        assert all(min(abs(value - each) for each in equal) < 1e-5 for value in other.sampler_logprobs[3:])


def test_a_server_that_reads_no_rules_is_refused(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine._serving is not None
    engine._serving.check_rules()
    monkeypatch.setattr("tokensweep.rollout.vllm.serving._NO_RULE", {})  # what an ignorant server makes of it
    with pytest.raises(EngineError, match=r"ignores sampling rules: start it with --logits-processors token"):
        engine._serving.check_rules()


def test_rules_that_were_not_announced_are_refused(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "follows_rules", False)
    with pytest.raises(ValueError, match="need expect_rules"):
        engine.generate(ruled(CUTS, requests(per_prompt=1)))


def logits_of(rows: int) -> torch.Tensor:
    return torch.randn(rows, 11, generator=torch.Generator().manual_seed(3)) * 2


def params(rule: Rule | None) -> Any:
    return SimpleNamespace(extra_args=dict(pairs_of(rule)) or None)


@pytest.mark.vllm
def test_the_first_runner_moves_requests_between_rows() -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from tokensweep.rollout.vllm.rules import SamplingRules

    processor = SamplingRules(None, torch.device("cpu"), False)
    drawn: list[list[int]] = [[], [7] * 5, [7], []]
    added = [(row, params(rule), [1], drawn[row]) for row, rule in enumerate((None, CUTS, HOT, CUTS))]
    processor.update_state(BatchUpdate(batch_size=4, removed=[], added=added, moved=[]))
    before = logits_of(4)

    def expected(rules: list[tuple[Rule | None, int]]) -> torch.Tensor:
        rows = [
            before[row : row + 1] if rule is None else rule(before[row : row + 1], torch.tensor([done]))
            for row, (rule, done) in enumerate(rules)
        ]
        return torch.cat(rows)

    assert torch.equal(processor.apply(before.clone()), expected([(None, 0), (CUTS, 5), (HOT, 1), (CUTS, 0)]))
    drawn[3] += [1, 2, 3]  # vLLM appends to the list it gave
    assert torch.equal(processor.apply(before.clone()), expected([(None, 0), (CUTS, 5), (HOT, 1), (CUTS, 3)]))
    swap = BatchUpdate(batch_size=4, removed=[], added=[], moved=[(0, 1, MoveDirectionality.SWAP)])
    processor.update_state(swap)
    assert torch.equal(processor.apply(before.clone()), expected([(CUTS, 5), (None, 0), (HOT, 1), (CUTS, 3)]))
    one_way = [(3, 2, MoveDirectionality.UNIDIRECTIONAL)]
    processor.update_state(BatchUpdate(batch_size=3, removed=[2], added=[], moved=one_way))
    before = before[:3]
    assert torch.equal(processor.apply(before.clone()), expected([(CUTS, 5), (None, 0), (CUTS, 3)]))
    again: list[Any] = [(0, params(None), [1], [])]  # a new request without a rule takes the row
    processor.update_state(BatchUpdate(batch_size=3, removed=[0], added=again, moved=[]))
    assert torch.equal(processor.apply(before.clone()), expected([(None, 0), (None, 0), (CUTS, 3)]))


@pytest.mark.vllm
def test_the_second_runner_keeps_requests_in_slots() -> None:
    from tokensweep.rollout.vllm.rules import SamplingRules

    prompts = np.array([4, 2, 3, 0], dtype=np.int32)  # tokens, by slot
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=prompts))
    processor = SamplingRules(None, states)
    took = [processor.add_request(slot, params(rule)) for slot, rule in enumerate((CUTS, None, HOT))]
    assert took == [True, False, True]
    before = logits_of(3)
    context = SimpleNamespace(idx_mapping_np=np.array([2, 0, 1]), seq_lens_upper_bound_np=np.array([3, 9, 2]))
    after = processor.apply(before.clone(), context)
    # Row 0 is slot 2 with 0 tokens so far, row 1 slot 0 with 9 - 4 = 5, row 2 has no rule.
    assert torch.equal(after[0:1], HOT(before[0:1], torch.tensor([0])))
    assert torch.equal(after[1:2], CUTS(before[1:2], torch.tensor([5])))
    assert torch.equal(after[2], before[2])
    assert processor.add_request(0, params(None)) is False  # the slot's next owner
    assert torch.equal(processor.apply(before.clone(), context)[1], before[1])


@pytest.mark.vllm
def test_both_runners_take_the_class() -> None:
    from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

    from tokensweep.rollout.vllm.serving import RULES

    assert _load_logitsprocs_by_fqcns([RULES]) == _load_v2_logitsprocs_by_fqcns([RULES])
