"""The reference engine: ``transformers.generate``, slow and independent, to check the others against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokensweep.registry import component
from tokensweep.rollout.needs import Drawing, Share, in_the_trainer, reading
from tokensweep.rollout.protocol import Progress, Request, Rollout, SamplingSpec
from tokensweep.rollout.rules import Rule, only_rule_of
from tokensweep.rollout.stops import StopTexts
from tokensweep.seeds import derive_seed

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy


@component("rollout", "hf")
@dataclass(eq=False)
class HfEngine:
    """Draws rollouts in batches of ``rows`` by ``model.generate``.

    The draw depends on the seeds of the whole batch, as generate knows only one random state.
    """

    rows: int = 128

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        self._policy: Policy | None = None
        self._version = 0

    def load(self, policy: Policy, *, version: int) -> None:
        """Draw from the weights ``policy`` has at each call of ``generate``, labelled ``version``."""
        self._policy, self._version = policy, version

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Rollout]:
        """One rollout per request, in order. Raises RuntimeError before the first ``load``."""
        if self._policy is None:
            raise RuntimeError("the engine has no weights: call load(policy, version=...) first")
        rollouts: dict[int, Rollout] = {}
        drawings = [(request.sampling, request.rules) for request in requests]
        for drawing in dict.fromkeys(drawings):
            members = [index for index, each in enumerate(drawings) if each == drawing]
            for start in range(0, len(members), self.rows):
                batch = members[start : start + self.rows]
                drawn = self._batch(self._policy, [requests[index] for index in batch])
                rollouts.update(zip(batch, drawn, strict=True))
                if progress is not None:
                    progress(len(batch))
        return [rollouts[index] for index in range(len(requests))]

    def expect_rules(self) -> None:
        """Nothing to prepare."""

    def rest(self) -> None:
        """Nothing is reserved."""

    def close(self) -> None:
        """Nothing was started."""

    def memory(self, share: Share) -> Drawing:
        """Batches of a fixed number of rows, in which a prompt is read once for each of them."""
        rows = min(share.rollouts, self.rows)
        return Drawing(
            rows=rows,
            parts=in_the_trainer(share, rows=rows),
            weight_bytes=reading(share),
            setting="rows",
        )

    def _batch(self, policy: Policy, requests: list[Request]) -> list[Rollout]:
        """Draw one left-padded batch, all by the sampling and the rule of the first."""
        sampling, rule = requests[0].sampling, only_rule_of(requests[0].rules, engine="hf")
        width = max(len(request.prompt_ids) for request in requests)
        gaps = [width - len(request.prompt_ids) for request in requests]
        ids = torch.tensor([[0] * gap + list(r.prompt_ids) for gap, r in zip(gaps, requests, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("hf", *(request.seed for request in requests)))
            output = policy.model.generate(
                ids.to(policy.device),
                attention_mask=mask.to(policy.device),
                generation_config=_generation(policy, sampling),
                stopping_criteria=_stopping(policy, sampling, width),
                logits_processor=_processors(rule, width),
            )
        drawn = output.sequences[:, width:]
        logprobs = torch.stack(output.scores, 1).float().log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        return [
            self._rollout(policy, row, column, sampling) for row, column in zip(drawn, logprobs, strict=True)
        ]

    def _rollout(self, policy: Policy, drawn: Tensor, logprobs: Tensor, sampling: SamplingSpec) -> Rollout:
        """Cut a row after its end."""
        ids = drawn.tolist()
        length = _end(policy, ids, sampling.stop)
        return Rollout(
            completion_ids=tuple(ids[: length or len(ids)]),
            sampler_logprobs=tuple(logprobs.tolist()[: length or len(ids)]),
            finish_reason="stop" if length else "length",
            weights_version=self._version,
        )


def _generation(policy: Policy, sampling: SamplingSpec) -> Any:
    """Our sampling in transformers' words, with every other filter off."""
    from transformers import GenerationConfig

    drawing: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        filters = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        drawing = {"do_sample": True, **filters}
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=policy.eos_ids[0],
        return_dict_in_generate=True,
        output_scores=True,
        **drawing,
    )


def _stopping(policy: Policy, sampling: SamplingSpec, width: int) -> Any:
    """Stop texts behind prompts of ``width`` tokens; transformers' own fails on small vocabularies."""
    from transformers import StoppingCriteriaList

    stops = StopTexts(sampling.stop, policy.decode)

    def ended(ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return stops.ended(ids[:, width:].T, torch.arange(len(ids), device=ids.device))

    return StoppingCriteriaList([ended] if sampling.stop else [])


def _processors(rule: Rule | None, width: int) -> Any:
    """The rule behind prompts of ``width`` tokens; temperature, top-k and top-p come after it."""
    from transformers import LogitsProcessorList

    def ruled(ids: Tensor, scores: Tensor) -> Tensor:
        assert rule is not None
        return rule(scores, torch.full_like(ids[:, 0], ids.shape[1] - width))

    return LogitsProcessorList([ruled] if rule else [])


def _end(policy: Policy, ids: list[int], stop: tuple[str, ...]) -> int | None:
    """Tokens up to and including the end of the completion; None if it has not ended."""
    for length, token in enumerate(ids, start=1):
        if token in policy.eos_ids:
            return length
        if stop and any(text in policy.decode(ids[:length]) for text in stop):
            return length
    return None
