"""Rates of a step: tokens of all ranks over the seconds of the slowest, and the use of a GPU by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tokensweep.models.policy import Policy
from tokensweep.train import throughput as rates
from tokensweep.train.ranks import ALONE, Ranks
from tokensweep.train.throughput import flops_per_token, peak_flops, throughput

VALUES = {"tokens/generated": 600.0, "tokens/trained": 400.0, "tokens/updated": 300.0}
SECONDS = {"time/generate_s": 2.0, "time/old_pass_s": 4.0, "time/update_s": 5.0}


def policy(device: str = "cpu") -> Policy:
    """A policy of three parameters, one of them frozen, with 10, 20 and 70 numbers."""
    parameters = [torch.nn.Parameter(torch.zeros(count)) for count in (10, 20, 70)]
    parameters[2].requires_grad_(False)
    model = SimpleNamespace(parameters=lambda: iter(parameters))
    return cast(Policy, SimpleNamespace(model=model, device=torch.device(device)))


def of_a_step(values: dict[str, float], seconds: dict[str, float], **changes: Any) -> dict[str, float]:
    known: dict[str, Any] = {"policy": policy(), "dtype": torch.bfloat16, "ranks": ALONE}
    return throughput(values, seconds, **{**known, **changes})


def test_a_rate_is_the_tokens_of_a_phase_over_its_seconds() -> None:
    assert of_a_step(VALUES, SECONDS) == {
        "throughput/generate_tokens_per_s": 300.0,
        "throughput/score_tokens_per_s": 100.0,
        "throughput/update_tokens_per_s": 60.0,
    }


class Two(Ranks):
    """The first of two ranks; the other one took longer to generate and had nothing to update."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=2)

    def gather(self, value: Any) -> list[Any]:
        return [value, {"time/generate_s": 3.0, "time/old_pass_s": 4.0}]


def test_with_several_ranks_the_slowest_decides() -> None:
    found = of_a_step(VALUES, SECONDS, ranks=Two())
    assert found["throughput/generate_tokens_per_s"] == 200.0
    assert found["throughput/update_tokens_per_s"] == 60.0


def test_a_step_without_an_update_has_no_rate_of_updates() -> None:
    found = of_a_step({"tokens/generated": 600.0, "tokens/trained": 0.0}, {"time/generate_s": 2.0})
    assert list(found) == ["throughput/generate_tokens_per_s"]


def test_a_trained_parameter_costs_6_per_token_and_a_frozen_one_4() -> None:
    assert flops_per_token(policy().model.parameters()) == 6 * 30 + 4 * 70


def test_on_a_gpu_the_work_of_the_update_is_compared_with_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    # 460 FLOPs per token at 60 tokens per second are 27600; two GPUs of 138000 could do ten times that.
    monkeypatch.setattr(rates, "_peak_flops", lambda device, dtype: 138_000.0)
    found = of_a_step(VALUES, SECONDS, ranks=Two())
    assert found["throughput/mfu"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA H100 NVL", torch.bfloat16, 835e12),
        ("NVIDIA H200", torch.float32, 67e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA GB200", torch.bfloat16, None),
        ("NVIDIA H20", torch.bfloat16, None),
        ("NVIDIA B200", torch.float32, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, None),
    ],
)
def test_the_peak_is_that_of_the_gpu_or_unknown(
    name: str, dtype: torch.dtype, expected: float | None
) -> None:
    assert peak_flops(name, dtype) == expected
