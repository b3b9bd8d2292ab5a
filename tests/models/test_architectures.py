"""Every architecture through the engines and through a run of the real trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import make_config
from transformers import AutoModelForCausalLM

from tokensweep.ledger import Attempt, read_metrics
from tokensweep.models.policy import Policy
from tokensweep.rollout import Engine, Request, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.reference import HfEngine
from tokensweep.train.activations import recompute_layers
from tokensweep.train.trainer import run_training

FolderOf = Callable[[str], Path]

PROMPTS = ((5, 6, 7), (9, 10, 11, 12, 13, 14, 15), (8,))  # padded, longer and shorter than a window of four


def requests(**sampling: Any) -> list[Request]:
    spec = SamplingSpec(**{"max_tokens": 8, **sampling})
    return [
        Request(prompt_ids=prompt, seed=10 * row + sample, sampling=spec)
        for row, prompt in enumerate(PROMPTS)
        for sample in range(2)
    ]


@pytest.mark.parametrize("make", [TorchEngine, HfEngine])
def test_sampler_logprobs_equal_a_full_forward_of_transformers(
    folder_of: FolderOf, architecture: str, make: type[Engine]
) -> None:
    folder = folder_of(architecture)
    policy, engine, asked = Policy(folder), make(), requests()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    engine.load(policy, version=0)
    for request, rollout in zip(asked, engine.generate(asked), strict=True):
        ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            table = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(request.prompt_ids) - 1
        expected = [float(table[start + i, token]) for i, token in enumerate(rollout.completion_ids)]
        assert rollout.sampler_logprobs == pytest.approx(expected, abs=1e-4)


def test_layers_that_are_run_again_give_the_same_gradients(folder_of: FolderOf, architecture: str) -> None:
    folder = folder_of(architecture)
    plain, again = Policy(folder), Policy(folder)
    recompute_layers(again.model)
    for policy in (plain, again):
        states = policy.hidden(torch.arange(2, 22), torch.tensor([0, 3, 14, 20]))
        states.square().sum().backward()  # type: ignore[no-untyped-call]  # torch
    given, expected = (
        {name: x.grad for name, x in policy.trained.items() if x.grad is not None}
        for policy in (again, plain)
    )
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], gradient) for name, gradient in expected.items())


def test_greedy_completions_are_those_of_generate(folder_of: FolderOf, architecture: str) -> None:
    policy, asked = Policy(folder_of(architecture)), requests(temperature=0.0)
    ours, theirs = TorchEngine(), HfEngine()
    for engine in (ours, theirs):
        engine.load(policy, version=0)
    assert [r.completion_ids for r in ours.generate(asked)] == [
        r.completion_ids for r in theirs.generate(asked)
    ]


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "qwen3_moe"])
def test_a_completion_is_the_same_in_any_batch_while_rows_end_and_leave(
    folder_of: FolderOf, name: str
) -> None:
    policy, engine, asked = Policy(folder_of(name)), TorchEngine(), requests(max_tokens=12)
    policy.eos_ids = tuple(range(12))  # about a fifth of the vocabulary: rows end all along the wave
    engine.load(policy, version=0)
    together = engine.generate(asked)
    alone = [engine.generate([request])[0] for request in asked]
    assert [r.completion_ids for r in together] == [r.completion_ids for r in alone]
    assert len({len(r.completion_ids) for r in together}) > 2
    for one, other in zip(together, alone, strict=True):
        assert one.sampler_logprobs == pytest.approx(other.sampler_logprobs, abs=1e-4)


def test_a_step_of_the_trainer_moves_the_weights(
    folder_of: FolderOf, architecture: str, tmp_path: Path
) -> None:
    folder, run = folder_of(architecture), tmp_path / "run"
    model = {"_component_": "model/hf", "path": str(folder), "chat": False}
    config = make_config(model=model, steps=1, checkpoint__every=1)
    with Attempt.open(run) as attempt:
        saved = run_training(config, run, attempt, cache=tmp_path / "models").checkpoint
    metrics = read_metrics(run)[0]["metrics"]
    assert metrics["loss/ratio"] == 1  # old and current log-probabilities are the same bits
    assert metrics["mismatch/max"] < 1e-4  # the engine and the trainer agree on every token
    before, after = (AutoModelForCausalLM.from_pretrained(x).state_dict() for x in (folder, saved))
    still = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert still == []
