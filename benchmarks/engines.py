"""Rollout engines: completion tokens per CPU second."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import benchmarks.words as words
from benchmarks.frame import Benchmark, Case, Goal, Measured, measured
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import encode_prompt
from tokensweep.rollout import Engine, Request, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.reference import HfEngine

VARIANTS = ("generate", "rollout=hf", "rollout=torch")


def measure(variant: str, *, prompts: int, samples: int, new_tokens: int, **shape: int) -> Measured:
    """One batch of ``samples`` completions for each prompt, after a short one that warms up."""
    source = words.Words(vocab=shape["vocab"], prompt_tokens=shape["prompt_tokens"])
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(words.write_model(Path(folder), shape))
    asked = [
        encode_prompt(policy.tokenizer, source[index].prompt, chat=False)
        for index in range(prompts)
        for _ in range(samples)
    ]
    if variant == "generate":
        _generate(policy, asked, 2)
        return measured(lambda: _generate(policy, asked, new_tokens), amount=len(asked) * new_tokens)
    engine = TorchEngine() if variant == "rollout=torch" else HfEngine(rows=len(asked))
    engine.load(policy, version=0)
    _rollouts(engine, asked, 2)
    return measured(lambda: _rollouts(engine, asked, new_tokens), amount=len(asked) * new_tokens)


def _rollouts(engine: Engine, asked: list[tuple[int, ...]], new_tokens: int) -> None:
    sampling = SamplingSpec(max_tokens=new_tokens)
    drawn = engine.generate(
        [Request(prompt_ids=ids, seed=i, sampling=sampling) for i, ids in enumerate(asked)]
    )
    assert {len(rollout.completion_ids) for rollout in drawn} == {new_tokens}


@torch.inference_mode()
def _generate(policy: Policy, asked: list[tuple[int, ...]], new_tokens: int) -> None:
    """transformers' own loop, which gives tokens and no log-probabilities."""
    ids = torch.tensor(asked)
    output = policy.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )
    assert output.shape[1] == ids.shape[1] + new_tokens


def _case(name: str, *, rate: float | None = None, rounds: int = 3, **options: int) -> Case:
    return Case(
        name=name,
        variants=VARIANTS,
        baseline="generate",
        options=options,
        rounds=rounds,
        goals={} if rate is None else {"rollout=torch": Goal(ratio=rate)},
    )


_WORK = {"prompts": 16, "samples": 8, "prompt_tokens": 16, "new_tokens": 64}

BENCHMARK = Benchmark(
    title="Rollout engines",
    unit="batch",
    rate="tokens",
    note=(
        "16 prompts of 16 tokens, 8 completions of exactly 64 tokens each, temperature 1. *generate* is "
        "`model.generate` of transformers, tokens only; `rollout=hf` is our reference engine around it, with "
        "log-probabilities; `rollout=torch` is the embedded engine, the default, with log-probabilities too."
    ),
    cases=(
        _case("4 layers, H = 256, V = 4096", rate=1.2, **_WORK, vocab=4096, hidden=256, layers=4),
        _case("2 layers, H = 128, V = 16384", rate=1.2, **_WORK, vocab=16384, hidden=128, layers=2),
    ),
    small=(
        _case(
            "1 layer, H = 64, V = 64",
            rounds=1,
            **{"prompts": 2, "samples": 2, "prompt_tokens": 4, "new_tokens": 4},
            **{"vocab": 64, "hidden": 64, "layers": 1},
        ),
    ),
    measure=measure,
)
