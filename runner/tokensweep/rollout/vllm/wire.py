"""Our requests and rollouts in the words of vLLM's call ``/inference/v1/generate``: token ids in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tokensweep.rollout.protocol import FinishReason, Request, Rollout
from tokensweep.rollout.vllm.errors import EngineError

_MISSING = -9999.0  # what vLLM writes for a log-probability that it does not have or that is -inf


def completion_body(request: Request, *, eos_ids: Sequence[int], model: str | None = None) -> dict[str, Any]:
    """What to ask for a rollout; ``model`` names an adapter."""
    spec = request.sampling
    sampling: dict[str, Any] = {
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "top_k": spec.top_k,
        "max_tokens": spec.max_tokens,
        "seed": request.seed,
        "logprobs": 0,  # of the drawn token alone
        "stop": list(spec.stop),
        "detokenize": bool(spec.stop),  # stop texts are looked for in the text
        "include_stop_str_in_output": True,
        "stop_token_ids": list(eos_ids),  # exactly ours, whatever the model's own files say
        "ignore_eos": True,
    }
    if request.rules:
        sampling["extra_args"] = dict(request.rules)
    return _body(request.prompt_ids, sampling, model=model)


def scoring_body(token_ids: Sequence[int], *, model: str | None = None) -> dict[str, Any]:
    """What to ask for the log-probabilities of given tokens."""
    sampling = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
    return _body(token_ids, sampling, model=model)


def scores_of(token_ids: Sequence[int], answer: Mapping[str, Any]) -> list[float]:
    """Log-probabilities of all tokens but the first. Raises EngineError where one is missing."""
    told = answer.get("prompt_logprobs")
    if not told or len(told) != len(token_ids):
        raise EngineError(
            "vLLM gave no log-probabilities of a prompt: they are what weight updates are checked by"
        )
    return [
        _number(place[str(token)]["logprob"] if place and str(token) in place else None, index)
        for index, (token, place) in enumerate(zip(token_ids, told, strict=True))
        if index
    ]


def rollout_of(request: Request, answer: Mapping[str, Any], *, version: int) -> Rollout:
    """The rollout in an answer.

    Raises EngineError for log-probabilities that are missing or no numbers, an unknown end, and weights of
    another version than asked for.
    """
    choice = answer["choices"][0]
    ids = tuple(choice["token_ids"])
    content = (choice.get("logprobs") or {}).get("content") or []
    if len(content) != len(ids):
        raise EngineError(
            f"vLLM gave {len(content)} log-probabilities for {len(ids)} tokens: without them a "
            "rollout can not be trained on"
        )
    logprobs = tuple(_number(each.get("logprob"), index) for index, each in enumerate(content))
    if (reason := choice["finish_reason"]) not in ("stop", "length"):
        raise EngineError(f"vLLM ended a completion with {reason!r}, neither its end nor its limit")
    seen = {str(span["version"]) for span in choice.get("weight_versions") or []}
    if seen - {str(version)}:
        raise EngineError(f"vLLM drew with the weights of version {sorted(seen)}, asked for {version}")
    return Rollout(
        completion_ids=ids,
        sampler_logprobs=logprobs,
        finish_reason=cast(FinishReason, reason),
        weights_version=version,
    )


def _body(token_ids: Sequence[int], sampling: Mapping[str, Any], *, model: str | None) -> dict[str, Any]:
    named = {"model": model} if model else {}
    return {"token_ids": list(token_ids), "sampling_params": sampling, **named}


def _number(logprob: float | None, index: int) -> float:
    if logprob is None or not math.isfinite(logprob) or logprob <= _MISSING:
        raise EngineError(
            f"vLLM gave {logprob} as the log-probability of token {index}: its numbers are broken; take "
            "rollout.dtype=float32 to see whether the number format is the reason"
        )
    return float(logprob)
