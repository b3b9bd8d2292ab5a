"""The parts of a run, built from its frozen config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensweep.loss.head import STATISTICS
from tokensweep.loss.method import Method, build_method
from tokensweep.loss.slots import REFERENCE
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import Encode, Prompt, fitting, prompt_of
from tokensweep.models.trainable import Trainable, trainable_of
from tokensweep.problems import ProblemSource
from tokensweep.registry import build
from tokensweep.rollout import Engine, SamplingSpec
from tokensweep.rollout.protocol import Joining
from tokensweep.rollout.reference import HfEngine
from tokensweep.rollout.rules import announce
from tokensweep.train.activations import recompute_layers
from tokensweep.train.collect import Collector
from tokensweep.train.ranks import Ranks

_FILLED = frozenset(
    {
        "entropy",
        *(f"old_{name}" for name in STATISTICS),
        "old_hidden",
        "sampler_logprobs",
        "ref_logprobs",
        "ref_entropy",
        "ref_divergence",
        "uniform",
    }
)
_FILLED_AFTER = frozenset(f"new_{name}" for name in STATISTICS)


class DataError(ValueError):
    """The problems of a run cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of, before its weights are loaded."""

    source: ProblemSource
    engine: Engine
    method: Method
    trainable: Trainable
    model_folder: Path  # weights that the run starts from
    prompt: Prompt
    chat: bool  # what the model says of itself
    device: torch.device
    dtype: torch.dtype


def assemble(config: Mapping[str, Any], *, cache: Path) -> Parts:
    """Build and check everything; the model is made or fetched into ``cache`` if it is not there.

    Raises DataError for problems that cannot be used, ValueError for a config that cannot train.
    """
    method = build_method(config["method"])
    if unfilled := sorted((method.needs() - _FILLED) | (method.needs_after() - _FILLED_AFTER)):
        raise ValueError(
            f"method {method.name} needs {', '.join(unfilled)}, which nothing fills: "
            f"its components may need {sorted(_FILLED)}"
        )
    if config["sampling"]["temperature"] <= 0:
        raise ValueError("sampling.temperature must be above 0: training needs samples that differ")
    source = build(config["data"])
    check_source(source)
    model, engine = build(config["model"]), build(config["rollout"])
    announce(method.sampling.rules(config["batch"]["group_size"]), engine)
    return Parts(
        source=source,
        engine=engine,
        method=method,
        trainable=trainable_of(config),
        model_folder=model.materialise(data=source, cache=cache),
        prompt=prompt_of(config),
        chat=model.chat,
        device=device_of(config["compute"]["device"]),
        dtype=getattr(torch, config["compute"]["dtype"]),
    )


def assemble_everywhere(config: Mapping[str, Any], *, cache: Path, ranks: Ranks) -> Parts:
    """The parts on every rank; the first makes or fetches the model before the others look for it.

    Raises as :func:`assemble`, on all ranks, and ValueError for an engine whose draws can't be divided.
    """
    with ranks.agreed():
        parts = assemble(config, cache=cache) if ranks.leads else None
    with ranks.agreed():
        parts = parts or assemble(config, cache=cache)
    if ranks.size > 1 and isinstance(parts.engine, HfEngine):
        raise ValueError(
            f"rollout=hf must run on one rank, got {ranks.size}: its draws depend on what is drawn beside "
            "them; take rollout=torch"
        )
    if isinstance(parts.engine, Joining):
        parts.engine.join(ranks)
    return parts


def check_source(source: ProblemSource) -> None:
    """Raise DataError for a source that cannot be used."""
    try:
        source.check()
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def collector_of(config: Mapping[str, Any], parts: Parts, policy: Policy, *, ranks: Ranks) -> Collector:
    """What samples the optimiser batches of the run. Raises DataError for prompts above the limit."""
    stop = dict.fromkeys((*config["sampling"]["stop"], *parts.prompt.stop))
    encode = encoder(parts.prompt, policy, chat=parts.chat)
    return Collector(
        source=parts.source,
        indices=fitting_problems(parts.prompt, parts.source, encode),
        engine=parts.engine,
        encode=encode,
        decode=policy.decode,
        sampling=SamplingSpec(**{**config["sampling"], "stop": tuple(stop)}),
        num_prompts=config["batch"]["prompts"],
        group_size=config["batch"]["group_size"],
        seed=config["seed"],
        ranks=ranks,
    )


def encoder(prompt: Prompt, policy: Policy, *, chat: bool) -> Encode:
    """What turns the text of a problem into token ids for this policy."""
    return lambda text: prompt.encode(policy.tokenizer, text, chat=chat)


def fitting_problems(prompt: Prompt, source: ProblemSource, encode: Encode) -> tuple[int, ...]:
    """Indices of the problems within the prompt's limit; raises DataError where longer ones are refused."""
    try:
        return fitting(prompt, source, encode)
    except ValueError as error:
        raise DataError(str(error)) from error


def policy_of(config: Mapping[str, Any], parts: Parts, *, checkpoint: Path | None) -> Policy:
    """The policy of the run as it starts, or as its checkpoint has it."""
    policy = parts.trainable.policy(
        parts.model_folder, checkpoint=checkpoint, seed=config["seed"], device=parts.device
    )
    if config["compute"].get("activation_checkpointing", False):  # configs of older runs do not have it
        recompute_layers(policy.model)
    return policy


def optimizer_of(policy: Policy, settings: Mapping[str, Any], *, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW over all trained parameters, weight decay on all of them; its state is in their number format."""
    return torch.optim.AdamW(
        list(policy.trained.values()),
        lr=settings["lr"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
        fused=fused,
    )


def reference_policy(parts: Parts) -> Policy | None:
    """The frozen policy that the run started from, where the method asks for it."""
    if not parts.method.needs() & REFERENCE:
        return None
    reference = Policy(parts.model_folder, device=parts.device)
    reference.model.requires_grad_(False)
    return reference


def prepare_torch(compute: Mapping[str, Any]) -> None:
    """Threads, and on a CPU only operations that give the same bits every time."""
    torch.set_num_threads(compute["threads"])
    torch.use_deterministic_algorithms(device_of(compute["device"]).type == "cpu")


def device_of(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
