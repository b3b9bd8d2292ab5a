"""The engines against a full forward, against each other and against themselves in another batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokensweep.models.policy import Policy
from tokensweep.registry import build
from tokensweep.rollout import Engine, Request, Rollout, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.fake import FakeEngine
from tokensweep.rollout.reference import HfEngine

PROMPTS = ((5, 6, 7), (9, 10, 11, 12, 13, 14), (8,), (20, 21, 22))  # three lengths: padding is needed
ENGINES = [TorchEngine, HfEngine]


def requests(*, per_prompt: int = 3, **sampling: object) -> list[Request]:
    spec = SamplingSpec(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]  # values of several types
    return [
        Request(prompt_ids=prompt, seed=100 * row + sample, sampling=spec)
        for row, prompt in enumerate(PROMPTS)
        for sample in range(per_prompt)
    ]


def loaded(engine: Engine, policy: Policy, *, version: int = 0) -> Engine:
    engine.load(policy, version=version)
    return engine


@torch.no_grad()
def logprobs(policy: Policy, request: Request, rollout: Rollout, *, temperature: float = 1.0) -> list[float]:
    """Log-probabilities of the completion's tokens by one ordinary forward of the whole sequence."""
    ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
    table = (policy.model(input_ids=ids).logits[0] / temperature).log_softmax(-1)
    start = len(request.prompt_ids)
    return [float(table[start + i - 1, token]) for i, token in enumerate(rollout.completion_ids)]


@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logprobs_equal_a_full_forward_before_and_after_an_update(
    policy: Policy, make: type[TorchEngine | HfEngine], temperature: float
) -> None:
    engine, asked = make(), requests(temperature=temperature)
    for version in (0, 1):
        rollouts = loaded(engine, policy, version=version).generate(asked)
        for request, rollout in zip(asked, rollouts, strict=True):
            expected = logprobs(policy, request, rollout, temperature=temperature)
            assert rollout.sampler_logprobs == pytest.approx(expected, abs=1e-4)
            assert rollout.weights_version == version
        with torch.no_grad():  # an optimiser step, tied head included
            for parameter in policy.model.parameters():
                parameter.mul_(0.8)


def test_greedy_completions_and_their_logprobs_equal_those_of_generate(policy: Policy) -> None:
    asked = requests(per_prompt=1, temperature=0.0)
    ours = loaded(TorchEngine(), policy).generate(asked)
    theirs = loaded(HfEngine(), policy).generate(asked)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.completion_ids == reference.completion_ids
        assert mine.sampler_logprobs == pytest.approx(reference.sampler_logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 5}], ids=str)
def test_a_completion_does_not_depend_on_the_rest_of_the_batch(
    policy: Policy, sampling: dict[str, Any]
) -> None:
    asked = requests(**sampling)
    engine = loaded(TorchEngine(), policy)
    together = [rollout.completion_ids for rollout in engine.generate(asked)]
    backwards = [rollout.completion_ids for rollout in engine.generate(asked[::-1])][::-1]
    alone = [engine.generate([request])[0].completion_ids for request in asked]
    small = loaded(TorchEngine(max_batch_tokens=40), policy)  # waves of two rows
    assert together == backwards == alone == [r.completion_ids for r in small.generate(asked)]
    assert len(set(together)) > len(PROMPTS)  # samples of one prompt differ


def test_different_sampling_in_one_call_is_kept_apart(policy: Policy) -> None:
    greedy, drawn = requests(temperature=0.0), requests(max_tokens=5)
    mixed = [request for pair in zip(greedy, drawn, strict=True) for request in pair]
    engine = loaded(TorchEngine(), policy)
    rollouts = engine.generate(mixed)
    assert rollouts[0::2] == engine.generate(greedy)
    assert rollouts[1::2] == engine.generate(drawn)


def ending_policy(policy: Policy) -> Policy:
    """Every third token or so ends the completion: the likeliest tokens are declared end tokens."""
    counts = torch.zeros(policy.vocab_size)
    for rollout in loaded(TorchEngine(), policy).generate(requests(per_prompt=8)):
        for token in rollout.completion_ids:
            counts[token] += 1
    policy.eos_ids = tuple(counts.topk(8).indices.tolist())
    return policy


def test_a_completion_ends_with_its_first_end_token_and_finished_rows_leave_the_batch(policy: Policy) -> None:
    free = loaded(TorchEngine(), policy).generate(requests(per_prompt=8))
    ended = loaded(TorchEngine(), ending_policy(policy)).generate(requests(per_prompt=8))
    for whole, cut in zip(free, ended, strict=True):
        places = [i for i, token in enumerate(whole.completion_ids) if token in policy.eos_ids]
        length = places[0] + 1 if places else 12
        assert cut.completion_ids == whole.completion_ids[:length]
        assert cut.sampler_logprobs == pytest.approx(whole.sampler_logprobs[:length], abs=1e-4)
        assert cut.finish_reason == ("stop" if places else "length")
    assert {rollout.finish_reason for rollout in ended} == {"stop", "length"}


@pytest.mark.parametrize("make", ENGINES)
def test_a_stop_text_ends_a_completion_and_stays_part_of_it(
    policy: Policy, make: type[TorchEngine | HfEngine]
) -> None:
    asked = requests(per_prompt=1, temperature=0.0)
    free = loaded(make(), policy).generate(asked)
    text = policy.decode(free[0].completion_ids)
    stop = text[3:5]  # two tokens of one character each
    stopped = loaded(make(), policy).generate(requests(per_prompt=1, temperature=0.0, stop=(stop,)))[0]
    end = text.index(stop) + len(stop)
    assert stopped.completion_ids == free[0].completion_ids[:end]
    assert stopped.finish_reason == "stop"


def test_the_length_limit_ends_a_completion(policy: Policy) -> None:
    policy.eos_ids = (0,)
    rollouts = loaded(TorchEngine(), policy).generate(requests(max_tokens=1))
    assert {(len(r.completion_ids), r.finish_reason) for r in rollouts if 0 not in r.completion_ids} == {
        (1, "length")
    }


@pytest.mark.parametrize("make", [*ENGINES, FakeEngine])
def test_progress_counts_every_completion_once(policy: Policy, make: type[Engine]) -> None:
    heard: list[int] = []
    loaded(make(), policy).generate(requests(), progress=heard.append)
    assert sum(heard) == 12


@pytest.mark.parametrize("make", [*ENGINES, FakeEngine])
def test_an_engine_without_weights_refuses_to_generate(make: type[Engine]) -> None:
    with pytest.raises(RuntimeError, match="call load"):
        make().generate(requests())


@pytest.mark.parametrize("make", [*ENGINES, FakeEngine])
def test_no_requests_give_no_rollouts(policy: Policy, make: type[Engine]) -> None:
    assert loaded(make(), policy).generate([]) == []


@pytest.mark.parametrize("make", ENGINES)
def test_generating_leaves_the_global_random_state_alone(policy: Policy, make: type[Engine]) -> None:
    state = torch.get_rng_state()
    loaded(make(), policy).generate(requests())
    assert torch.equal(torch.get_rng_state(), state)


def test_training_goes_on_after_a_rollout(policy: Policy) -> None:
    loaded(TorchEngine(), policy).generate(requests())
    states = policy.hidden(torch.tensor([3, 4, 5]), torch.tensor([0, 3]))
    torch.autograd.backward(states.sum())
    assert policy.head_weight.grad is not None


def test_the_fake_engine_answers_by_seed_and_within_the_limit(policy: Policy) -> None:
    engine = loaded(FakeEngine(texts=("12", "3")), policy)
    asked = [Request(prompt_ids=(5,), seed=s, sampling=SamplingSpec(max_tokens=2)) for s in (0, 1)]
    long, short = engine.generate(asked)
    assert (policy.decode(long.completion_ids), long.finish_reason) == ("12", "length")
    assert (policy.decode(short.completion_ids), short.finish_reason) == ("3", "stop")
    assert sum(short.sampler_logprobs) == pytest.approx(-0.6931, abs=1e-4)  # one of two: -log 2


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ({"_component_": "rollout/torch", "max_batch_tokens": 64}, TorchEngine),
        ({"_component_": "rollout/hf"}, HfEngine),
        ({"_component_": "rollout/fake", "texts": ["7"]}, FakeEngine),
    ],
)
def test_engines_are_built_from_frozen_nodes(node: dict[str, object], kind: type[Engine]) -> None:
    engine = build(node)
    assert isinstance(engine, kind)
    assert isinstance(engine, Engine)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_component_": "rollout/torch", "max_batch_tokens": 0}, "max_batch_tokens must be at least 1"),
        ({"_component_": "rollout/hf", "rows": 0}, "rows must be at least 1"),
        ({"_component_": "rollout/fake", "texts": []}, "texts must hold at least one"),
    ],
)
def test_engines_out_of_range_are_refused(node: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(node)
