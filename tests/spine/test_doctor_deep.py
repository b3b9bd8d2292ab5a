"""The doctor's comparisons of numbers on this machine's device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokensweep.doctor import engines
from tokensweep.doctor.finding import Finding, Level
from tokensweep.loss import head


@pytest.mark.parametrize(
    "check",
    [engines.head_on_device, engines.packing_on_device, engines.embedded_parity],
    ids=lambda c: c.__name__,
)
def test_a_machine_that_computes_right_is_well(check: Callable[[], Finding]) -> None:
    assert check().level is Level.ok


def test_a_head_that_computes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = head.linear_token_stats
    monkeypatch.setattr(
        head, "linear_token_stats", lambda hidden, weight, targets: right(hidden * 1.01, weight, targets)
    )
    found = engines.head_on_device()
    assert found.level is Level.fail
    assert "above 0.001" in found.found


@pytest.mark.vllm
def test_vllm_is_compared_before_and_after_an_update_and_a_crash() -> None:
    found = engines.vllm_parity()
    assert found.level is Level.ok, found.found
    assert "after a crash" in found.found
