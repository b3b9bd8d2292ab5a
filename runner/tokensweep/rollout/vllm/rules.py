"""Sampling rules inside vLLM: a logits processor that the server loads where requests may have rules.

vLLM has two model runners with an interface each, and decides itself which of them runs: the first on a CPU,
the second on a GPU unless a feature asks for the first. One class speaks both. The second is not run on a
GPU; a test calls it as its source says that the runner does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnersProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondRunnersProcessor

from tokensweep.rollout.rules import Rule, rule_of


class SamplingRules(FirstRunnersProcessor, SecondRunnersProcessor):  # type: ignore[misc]  # vllm is untyped
    """Applies to each row of the logits the rule that its request carries in ``extra_args``.

    The first runner makes it with (config, device, is_pin_memory), moves requests between rows and calls
    ``apply(logits)``; the second makes it with (config, request states), keeps a request in its slot and
    calls ``apply(logits, context)``. Both give logits in float32; temperature, top-k and top-p come after.
    """

    def __init__(self, vllm_config: Any, states_or_device: Any, is_pin_memory: bool = False) -> None:
        self._rules: dict[int, Rule] = {}  # by row (first runner) or slot (second)
        self._drawn: dict[int, list[int]] = {}  # first runner: tokens so far, a list that vLLM appends to
        self._states = states_or_device  # second runner

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError for an unknown rule, which the server answers with status 400."""
        _rule(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """CUTS takes the order from its survivors."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests through the rows of the first runner."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._put(row, None)
        for row, params, _, drawn in batch_update.added:
            rule = _rule(params)
            self._put(row, None if rule is None else (rule, drawn))
        for source, target, direction in batch_update.moved:
            here, there = self._take(source), self._take(target)
            self._put(target, here)
            if direction is MoveDirectionality.SWAP:
                self._put(source, there)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a request of the second runner into its slot; whether it has a rule."""
        self._rules.pop(req_idx, None)
        if (rule := _rule(sampling_params)) is not None:
            self._rules[req_idx] = rule
        return rule is not None

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        """The logits [B, V] with the rows of requests that have a rule replaced."""
        done = self._done() if context is None else self._done_in_slots(context)
        for rule, rows in _by_rule(done, self._rules if context is None else self._rules_of(context)):
            index = torch.tensor(rows, device=logits.device)
            so_far = torch.tensor([done[row] for row in rows], device=logits.device)
            logits[index] = rule(logits[index], so_far)
        return logits

    def _done(self) -> dict[int, int]:
        """Completion tokens so far of every row that has a rule."""
        return {row: len(drawn) for row, drawn in self._drawn.items()}

    def _rules_of(self, context: Any) -> dict[int, Rule]:
        """Rules by row of the second runner's batch; without speculative decoding a request is a row."""
        slots = enumerate(context.idx_mapping_np.tolist())
        return {row: self._rules[slot] for row, slot in slots if slot in self._rules}

    def _done_in_slots(self, context: Any) -> dict[int, int]:
        before = self._states.prompt_len.np
        lengths = context.seq_lens_upper_bound_np
        return {
            row: int(lengths[row]) - int(before[slot])
            for row, slot in enumerate(context.idx_mapping_np.tolist())
            if slot in self._rules
        }

    def _take(self, row: int) -> tuple[Rule, list[int]] | None:
        rule, drawn = self._rules.pop(row, None), self._drawn.pop(row, None)
        return None if rule is None or drawn is None else (rule, drawn)

    def _put(self, row: int, held: tuple[Rule, list[int]] | None) -> None:
        self._take(row)
        if held is not None:
            self._rules[row], self._drawn[row] = held


def _rule(params: Any) -> Rule | None:
    return rule_of(tuple(sorted((params.extra_args or {}).items())))


def _by_rule(done: Mapping[int, int], rules: Mapping[int, Rule]) -> Iterator[tuple[Rule, list[int]]]:
    """Every rule with its rows, ascending."""
    for rule in dict.fromkeys(rules[row] for row in done):
        yield rule, sorted(row for row in done if rules[row] == rule)
