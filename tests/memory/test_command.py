"""``tokensweep plan train``: the plan that people see, and the exit code that scripts see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokensweep.cli import main
from tokensweep.registry import component
from tokensweep.rollout import Drawing, Share


@component("rollout", "test_silent")
@dataclass(eq=False)
class Silent:
    """An engine, as far as a plan looks at one, that does not say what it needs."""


@component("rollout", "test_scratch")
@dataclass(eq=False)
class Scratch:
    """An engine that takes a share of the device and reads two bytes of every weight for a token."""

    share: float = 0.9

    def memory(self, share: Share) -> Drawing:
        """All in one part."""
        parts = {"scratch": self.share * share.device_bytes}
        return Drawing(rows=share.rollouts, parts=parts, weight_bytes=2.0, setting="share", is_share=True)


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *overrides: str
) -> tuple[int, str]:
    """Exit code and output, lines joined, of a plan."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["tokensweep", "plan", "train", *overrides])
    try:
        main()
        code = 0
    except SystemExit as left:
        code = int(str(left.code))
    output = capsys.readouterr()
    return code, " ".join((output.out + output.err).split())


def test_qwen3_8b_does_not_fit_on_eight_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # neither problems nor a commit are there, nor is the model
    words = ("gpu_mem_gb=80", "gpus=8", "gpu_tflops=312", "gpu_bandwidth_gb_s=2039")
    code, text = told(
        *(monkeypatch, capsys),
        *("model=qwen3_8b", "model.commit=''", "scale=paper", "data=dapo_math_17k", "eval=aime24"),
        *(f"store={tmp_path}", *words),
    )
    assert code == 1
    assert "8.19 billion parameters" in text
    assert "8 x GPU with 80 GB (GB: 10^9 bytes); every one holds the whole model" in text
    assert "does not fit: update takes" in text
    assert "More GPUs do not help" in text
    assert "A smaller model that fits: model=qwen3_0_6b" in text
    assert "fits with this model: compute.activation_checkpointing=true trainable=lora (" in text
    assert "estimate, not measured: a step takes" in text


def test_a_plan_for_a_site_needs_no_launcher_and_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("model=qwen2_5_math_1_5b", "scale=smoke", "site=example", f"store={tmp_path}")
    code, text = told(monkeypatch, capsys, *overrides)
    assert code == 0
    assert "site example with 80 GB" in text
    assert "fits: " in text
    assert "to do" not in text  # memory only: nothing of the run was looked up


def test_here_the_plan_goes_on_to_what_would_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = told(monkeypatch, capsys, "seed=0,1", "model.hidden=96,128", f"store={tmp_path}")
    assert code == 0
    assert "memory and time of the largest of 4 runs: seed=0 model.hidden=128" in text
    assert "this machine with" in text
    assert "4 runs, 4 to do" in text


def test_a_rollout_longer_than_the_models_positions_is_remarked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("model=qwen2_5_math_1_5b", "scale=paper", "gpu_mem_gb=80", f"store={tmp_path}")
    _, text = told(monkeypatch, capsys, *overrides)
    assert "a rollout of 22,528 tokens is longer than the 4,096 positions" in text


def test_a_model_of_unknown_size_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("model=hf", "model.path=owner/name", f"model.commit={'a' * 40}", "gpu_mem_gb=80")
    code, text = told(monkeypatch, capsys, *overrides, f"store={tmp_path}")
    assert code == 2
    assert "a memory plan needs the sizes of the model" in text


def test_a_run_of_a_model_of_unknown_size_is_still_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("model=hf", "model.path=owner/name", f"model.commit={'a' * 40}", f"store={tmp_path}")
    code, text = told(monkeypatch, capsys, *overrides)
    assert code == 0
    assert "no plan of memory: a memory plan needs the sizes of the model" in text
    assert "1 run, 1 to do" in text


GPU = (
    *("model=qwen3_1_7b", "scale=paper", "data.max_tokens=2048", "batch.micro_tokens=2560"),
    *("gpu_mem_gb=80", "gpu_tflops=312", "gpu_bandwidth_gb_s=2039"),
)


def test_an_engine_that_does_not_say_what_it_needs_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = told(monkeypatch, capsys, "rollout=test_silent", *GPU, f"store={tmp_path}")
    assert code == 0
    assert "rollout/test_silent does not say what it needs of memory" in text
    assert "fits, without what drawing takes: " in text
    (times,) = re.findall(r" time (.*?) rollout/test_silent", text)
    assert len(re.findall(r"[\d.]+-[\d.]+ min", times)) == 2  # old_pass and update, not rollout


def test_an_engine_of_an_extension_is_planned_as_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = told(monkeypatch, capsys, "rollout=test_scratch", *GPU, f"store={tmp_path}")
    # 12 bytes of 1.72 billion parameters are 20.6 GB, which leaves a share of 0.74; shares are twentieths
    assert code == 1
    assert "scratch 72.00" in text
    assert "The smallest change that fits: rollout.share=0.7 (" in text
