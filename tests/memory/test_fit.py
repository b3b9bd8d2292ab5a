"""The plan of a run that is too large: refused by phase and figure, with the smallest change that helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokensweep.compose import Frozen, freeze_run, register_components
from tokensweep.memory.device import GB, Device, device_of, split_words
from tokensweep.memory.estimate import peak, phases, work_of
from tokensweep.memory.fit import fits, largest_micro_tokens, smallest_changes, with_value
from tokensweep.memory.pace import pace_of

GPU = Device(name="GPU", memory_gb=80.0, ranks=8, on_cpu=False)
A100 = replace(GPU, tflops=312.0, bandwidth_gb_s=2039.0)

FEW = "rollout.max_batch_tokens=8192"  # so that drawing is not what takes most

Compose = Callable[..., Frozen]


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """Qwen3-0.6B with completions of 2,048 tokens, unless told otherwise."""
    register_components()
    given = (
        *("model=qwen3_0_6b", "scale=paper", "data.max_tokens=2048", "prompt.max_tokens=512"),
        *("batch.prompts=32", "batch.micro_tokens=2560", f"store={tmp_path}", "method=grpo"),
    )
    return lambda *more: freeze_run([*given, *more])


def shrunk(frozen: Frozen) -> Device:
    """A device on which the run is a little too large."""
    return replace(GPU, memory_gb=peak(work_of(frozen, GPU)).total / GB - 0.2)


def test_qwen3_8b_holds_16_bytes_per_parameter_on_every_gpu(compose: Compose) -> None:
    # 8,190,735,360 parameters: 4 bytes of weight, 4 of gradient, 8 of moments; 399 step counts
    frozen = compose("model=qwen3_8b")
    parts = {phase.name: phase for phase in phases(work_of(frozen, GPU))}["update"].parts
    held = parts["weights"] + parts["gradients"] + parts["optimiser state"]
    assert held == 16 * 8_190_735_360 + 4 * 399
    assert not fits(frozen, GPU)
    assert not fits(frozen, replace(GPU, ranks=64))


def test_fewer_rollouts_at_a_time_are_the_first_thing_to_try(compose: Compose) -> None:
    frozen = compose("rollout.max_batch_tokens=400000")
    assert peak(work_of(frozen, GPU)).name == "rollout"
    device = shrunk(frozen)
    (change,) = smallest_changes(frozen, device)
    key, _, value = change.overrides[0].partition("=")
    assert key == "rollout.max_batch_tokens"
    assert fits(change.frozen, device)
    assert not fits(with_value(frozen, key, int(value) + 3000), device)  # a rollout more


def test_a_smaller_micro_batch_is_the_next(compose: Compose) -> None:
    frozen = compose(FEW, "batch.micro_tokens=10240")
    device = shrunk(frozen)
    (change,) = smallest_changes(frozen, device)
    most = largest_micro_tokens(frozen, device)
    assert change.overrides == (f"batch.micro_tokens={most}",)
    assert most is not None
    assert not fits(with_value(frozen, "batch.micro_tokens", most + 512), device)


# What the next changes come after, with rollouts that take nothing and forwards that take most.
AS_SMALL = (
    *("trainable=lora", "compute.activation_checkpointing=true", "rollout=fake"),
    *("data.max_tokens=16384", "batch.micro_tokens=16896"),
)


def test_layers_are_run_again_before_anything_else_is_given_up(compose: Compose) -> None:
    frozen = compose(FEW)
    (change,) = smallest_changes(frozen, shrunk(frozen))
    assert change.overrides == ("compute.activation_checkpointing=true",)


def test_adapters_are_the_next(compose: Compose) -> None:
    frozen = compose(FEW, "compute.activation_checkpointing=true")
    (change,) = smallest_changes(frozen, shrunk(frozen))
    assert change.overrides == ("trainable=lora",)


def test_a_reference_model_goes_before_length(compose: Compose) -> None:
    frozen = compose(*AS_SMALL, "method=grpo_kl")
    (change,) = smallest_changes(frozen, shrunk(frozen))
    assert change.overrides == ("'~method.regularizers.kl'",)
    assert "ref_logprobs" not in work_of(change.frozen, GPU).method.needs()


def test_shorter_completions_take_the_micro_batch_with_them(compose: Compose) -> None:
    frozen = compose(*AS_SMALL)
    (change,) = smallest_changes(frozen, shrunk(frozen))
    tokens = change.frozen["data"]["max_tokens"]
    assert change.overrides == (f"data.max_tokens={tokens}", f"batch.micro_tokens={tokens + 512}")
    assert change.frozen["sampling"]["max_tokens"] == tokens < 16384


def test_a_model_that_is_too_large_by_its_weights_is_replaced(compose: Compose) -> None:
    # weights alone are 32.8 GB; weights, gradients and optimiser state of Qwen3-4B 64, of Qwen3-1.7B 27.5,
    # to which 2,560 tokens add 3.7 MB each
    changes = smallest_changes(compose(FEW, "model=qwen3_8b"), replace(GPU, memory_gb=30.0))
    assert [change.overrides for change in changes] == [("model=qwen3_0_6b",)]


def test_vllm_takes_its_share_of_the_device(compose: Compose) -> None:
    device = replace(GPU, memory_gb=48.0)
    frozen = compose("rollout=vllm", "model=qwen3_1_7b", "rollout.gpu_memory_utilization=0.7")
    parts = {phase.name: phase.parts for phase in phases(work_of(frozen, device))}
    assert parts["rollout"]["vLLM"] == pytest.approx(0.7 * 48 * GB)
    assert "vLLM" not in parts["update"]  # asleep
    # weights and optimiser state are 12 bytes of 1.72 billion parameters, 20.6 GB: 0.57 is left
    assert smallest_changes(frozen, device)[0].overrides == ("rollout.gpu_memory_utilization=0.55",)


def test_time_follows_devices_lengths_and_bounds(compose: Compose) -> None:
    work = work_of(compose(), A100)
    pace = pace_of(work, A100, mean_tokens=2048)
    assert pace is not None
    # update of 512 rollouts: three forwards of 2,560 tokens, 2,048 of them scored; products with 440,406,016
    # weights (norms of heads among them), attention of 28 layers over 2,048 numbers, head of 1024 x 151936
    weights, length = 440_408_064 + 1024, 2560
    body = 2 * work.parameters.products + 28 * 2 * 2048 * length
    flops = 3 * 512 * (length * body + 2048 * 2 * 1024 * 151936)
    assert work.parameters.products == pytest.approx(weights, rel=1e-4)
    assert pace.seconds["update"][0] == pytest.approx(flops / 8 / (0.5 * 312e12))
    assert pace.seconds["update"][1] == pytest.approx(flops / 8 / (0.2 * 312e12))
    half = pace_of(work_of(compose(), replace(A100, ranks=4)), replace(A100, ranks=4), mean_tokens=2048)
    assert half is not None
    assert half.step_s[0] == pytest.approx(2 * pace.step_s[0], rel=0.01)


@pytest.mark.parametrize("missing", [{"tflops": None}, {"bandwidth_gb_s": None}])
def test_there_is_no_time_without_figures(compose: Compose, missing: dict[str, None]) -> None:
    device = replace(A100, **missing)  # type: ignore[arg-type]  # of both fields None is a value
    assert pace_of(work_of(compose(), device), device, mean_tokens=100) is None


def test_there_is_no_time_in_float32(compose: Compose) -> None:
    assert pace_of(work_of(compose("compute.dtype=float32"), A100), A100, mean_tokens=100) is None


def test_devices_are_those_of_the_words_the_site_or_this_machine(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, rest = split_words(["gpu_mem_gb=40", "gpus=4", "seed=3"])
    assert rest == ["seed=3"]
    by_hand = device_of(compose(), words)
    assert (by_hand.memory_gb, by_hand.ranks, by_hand.on_cpu) == (40, 4, False)
    of_site = device_of(compose("site=example", "resources.train.gpus=2", "resources.train.nodes=2"), {})
    assert (of_site.memory_gb, of_site.ranks, of_site.tflops, of_site.hour_price) == (80, 4, 312, 1.2)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 5_000_000}.__getitem__)
    here = device_of(compose("compute.device=cpu"), {})
    assert here.on_cpu
    assert here.memory_gb == pytest.approx(0.9 * 20.48)
    site = tmp_path / "mine.yaml"
    site.write_text("partition: gpu\n")
    with pytest.raises(ValueError, match=r"site mine does not say how much memory .* gpu_mem_gb=80"):
        device_of(compose(f"site={site}"), {})


def test_a_word_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="gpus must be a number above 0, got 'many'"):
        split_words(["gpus=many"])
