"""A whole GRPO step: sample, grade, update. Our trainer as ``tokensweep train`` runs it, and TRL's."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import benchmarks.words as words
from benchmarks.frame import Benchmark, Case, Goal, Measured, measured
from tokensweep.compose import freeze_run, register_components
from tokensweep.ledger import Attempt, read_metrics

_CONSTANT_GROUPS = 0.25  # share of groups with one reward that still counts as the same work as TRL's
_DROPPED = 2  # first steps, in which caches fill and the optimizer makes its state

_METHODS = {
    "tokensweep": ("method=grpo", "method/aggregate=token_mean"),
    "tokensweep, 20 % of tokens": (
        "method=forking_tokens",
        "method/allocation=uniform",
        "~method.reward_terms.overlong",
    ),
}
_TRL = {"TRL": 1.0, "TRL, 20 % of tokens": 0.2}  # its top_entropy_quantile
VARIANTS = (*_TRL, *_METHODS)


def measure(variant: str, *, steps: int, threads: int, **work: int) -> Measured:
    """The median cost of an optimiser step of ``variant``, its first steps left out.

    ``work`` has vocab, hidden, layers, prompts, samples, prompt_tokens and new_tokens.
    """
    torch.set_num_threads(threads)
    clock = _StepClock()
    with tempfile.TemporaryDirectory() as folder:
        model = words.write_model(Path(folder) / "model", work)
        if variant in _TRL:
            train = _trl(model, clock, steps=_DROPPED + steps, quantile=_TRL[variant], work=work)
        else:
            overrides = (*_METHODS[variant], f"compute.threads={threads}")
            train = _tokensweep(model, clock, overrides, steps=_DROPPED + steps, work=work)
        whole = measured(train)
    cpu_s, wall_s = clock.median_step()
    return Measured(cpu_s=cpu_s, wall_s=wall_s, peak_mb=whole.peak_mb)


class _StepClock:
    """CPU and wall time at the start and after every step."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []

    def tick(self) -> None:
        self._ticks.append((time.process_time(), time.perf_counter()))

    def median_step(self) -> tuple[float, float]:
        """Median CPU and wall seconds of the steps that count."""
        cpu, wall = zip(*self._ticks[_DROPPED:], strict=True)
        return _median_gap(cpu), _median_gap(wall)


def _median_gap(times: Sequence[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(times))


def _tokensweep(
    model: Path, clock: _StepClock, overrides: tuple[str, ...], *, steps: int, work: Mapping[str, int]
) -> Callable[[], None]:
    """A run composed, frozen and trained as the command line does it, without its worker process."""
    from tokensweep.train.trainer import run_training

    register_components()
    config = freeze_run(
        [
            *overrides,
            "method.updates_per_batch=1",
            "model=hf",
            f"model.path={model}",
            "model.chat=false",
            "data=bench_words",
            f"data.vocab={work['vocab']}",
            f"data.prompt_tokens={work['prompt_tokens']}",
            f"data.max_tokens={work['new_tokens']}",
            f"batch.prompts={work['prompts']}",
            f"batch.group_size={work['samples']}",
            f"batch.micro_tokens={_tokens(work)}",  # one forward for all, as in TRL's trainer
            f"steps={steps + 1}",  # the last one writes the checkpoint
            f"checkpoint.every={steps + 1}",
            "store_rollouts.every=0",
            "eval.held_out=0",
            "compute.device=cpu",
        ]
    )
    run_dir = model.parent / "run"

    def train() -> None:
        def heard(done: int, total: int) -> None:
            if done <= steps:
                clock.tick()

        with Attempt.open(run_dir) as attempt:
            clock.tick()
            run_training(config, run_dir, attempt, cache=model.parent / "cache", on_progress=heard)
        _check_work([row["metrics"] for row in read_metrics(run_dir)], work)

    return train


def _check_work(rows: list[dict[str, float]], work: Mapping[str, int]) -> None:
    """Raise unless every step trained on all the tokens that TRL trains on, nearly all with a signal."""
    wanted = work["prompts"] * work["samples"] * work["new_tokens"]
    for row in rows:
        if row["tokens/trained"] != wanted or row["sampled/zero_variance_groups"] > _CONSTANT_GROUPS:
            raise RuntimeError(f"a step must train on {wanted} tokens of mixed groups, got {row}")


def _trl(
    model: Path, clock: _StepClock, *, steps: int, quantile: float, work: Mapping[str, int]
) -> Callable[[], None]:
    """TRL's GRPOTrainer with transformers' generation, one update per batch, no KL, float32."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Ticking(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(words.mostly_even(text)) for text in completions]

    source = words.Words(vocab=work["vocab"], prompt_tokens=work["prompt_tokens"])
    prompts = [source[index].prompt for index in range(len(source))]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, use_safetensors=True),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(model.parent / "trl"),
            per_device_train_batch_size=work["prompts"] * work["samples"],
            num_generations=work["samples"],
            max_completion_length=work["new_tokens"],
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",  # token mean
            top_entropy_quantile=quantile,
            learning_rate=1e-4,
            max_steps=steps,
            bf16=False,
            gradient_checkpointing=False,  # the default costs one more forward; ours has none either
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Ticking()],
    )

    def train() -> None:
        clock.tick()
        trainer.train()
        (length,) = {row["completions/mean_length"] for row in trainer.state.log_history if "reward" in row}
        if length != work["new_tokens"]:
            raise RuntimeError(
                f"every completion must have {work['new_tokens']} tokens, got a mean of {length}"
            )

    return train


def _tokens(work: Mapping[str, int]) -> int:
    return work["prompts"] * work["samples"] * (work["prompt_tokens"] + work["new_tokens"])


def _case(name: str, *, goals: Mapping[str, Goal] | None = None, **options: int) -> Case:
    return Case(name=name, variants=VARIANTS, baseline="TRL", options=options, goals=goals or {}, rounds=2)


_WORK = {"prompts": 16, "samples": 8, "prompt_tokens": 16, "new_tokens": 64, "steps": 2, "threads": 1}

BENCHMARK = Benchmark(
    title="GRPO step against TRL",
    unit="optimiser step",
    note=(
        "16 prompts of 16 tokens, 8 completions of exactly 64 tokens each, one update, float32, on a Qwen3 "
        "of random weights. Ours is the trainer that `tokensweep train` runs, metrics and ledger included; "
        "TRL is `GRPOTrainer` with transformers' generation, without gradient checkpointing. *20 % of "
        "tokens*: `method=forking_tokens` and TRL's `top_entropy_quantile=0.2`."
    ),
    cases=(
        _case(
            "4.2 M parameters (4 layers, H = 256, V = 4096)",
            goals={"tokensweep": Goal(ratio=0.7)},
            **_WORK,
            **{"vocab": 4096, "hidden": 256, "layers": 4},
        ),
        _case(
            "2 layers, H = 128, V = 16384",
            goals={"tokensweep, 20 % of tokens": Goal(ratio=0.4)},
            **_WORK,
            **{"vocab": 16384, "hidden": 128, "layers": 2},
        ),
    ),
    small=(
        Case(
            name="1 layer, H = 64, V = 64",
            variants=("TRL", "tokensweep, 20 % of tokens"),
            baseline="TRL",
            options={
                **{"prompts": 4, "samples": 8, "prompt_tokens": 4, "new_tokens": 8, "steps": 1, "threads": 1},
                **{"vocab": 64, "hidden": 64, "layers": 1},
            },
            rounds=1,
        ),
    ),
    measure=measure,
)
