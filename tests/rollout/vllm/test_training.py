"""Training and evaluation with vLLM's CPU build: the whole chain, also after it was stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokensweep_analysis.samples import read_samples


def run(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "tokensweep.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(store: Path) -> list[dict[str, Any]]:
    """The metrics of the store's only run, by step."""
    (metrics,) = store.glob("runs/*/attempts/*/metrics.jsonl")
    return [json.loads(line)["metrics"] for line in metrics.read_text().splitlines()]


@pytest.mark.vllm
def test_a_run_trains_on_vllms_rollouts_and_is_evaluated_by_it_with_sampling_rules_in_both(
    tmp_path: Path,
) -> None:
    shape = ["model.hidden=64", "model.layers=2", "model.heads=2", "model.mlp=96", "model.steps=150"]
    command = [
        *("train", "scale=smoke", "method=[grpo,tis]", "rollout=vllm", "rollout.kv_cache_gb=0.1"),
        *("method/sampling=mixed_cuts", "method.sampling.warm_up=1", "eval/rule=two_temperatures"),
        *("method.sampling.delta=0", "method.sampling.top_k=2", "eval.rule.high=1.4"),
        *(
            "rollout.max_num_seqs=32",
            "eval.held_out=4",
            "data.steps=1",
            "data.size=64",
            *shape,
            f"store={tmp_path}",
        ),
    ]
    run(*command)
    first, second = rows(tmp_path)
    assert {first["updates"], second["updates"]} >= {2.0}
    for row in (first, second):  # on-policy up to float noise: the engine has the weights of the step
        assert row["mismatch/max"] < 1e-3  # of the half that is drawn by no rule
        assert row["method/sampling/survivors"] == pytest.approx(2, abs=1e-3)
        assert row["method/sampling/looks_uniform"] < 0.05
    samples = read_samples(tmp_path.glob("runs/*/evals/*"))
    assert len(samples) == 8  # four problems, two samples each
    assert "1 finished before" in run(*command)
