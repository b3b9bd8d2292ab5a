"""What was computed is used again, by other sweeps and other evaluations; and runs of several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.slurm.sweeping import EVALUATED, STEPS, UNEVALUATED, Sweeping

from tokensweep.ledger import read_events, read_run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

_SITE = "site=devcluster"
_NEAR = 1e-5  # weights move by 0.05; two orders of adding the same gradients differ by less than 1e-6


def stages(sweeping: Sweeping, name: str) -> list[str]:
    """What was submitted for a sweep, in order."""
    paths = sorted((sweeping.store / "sweeps" / name).glob("submissions/*/submission.json"))
    return [json.loads(path.read_text())["stage"] for path in paths]


def test_a_checkpoint_is_evaluated_for_several_sweeps_and_trained_for_one(sweeping: Sweeping) -> None:
    sweeping.train("first", "seed=0", EVALUATED, _SITE, "wait=true")
    (run_dir,) = sweeping.runs("first").values()
    assert stages(sweeping, "first") == ["train", "evaluate", "report"]

    told = sweeping.train("same", "seed=0", EVALUATED, _SITE)
    assert "1 run, 0 to do" in told
    assert not (sweeping.store / "sweeps" / "same" / "submissions").exists()

    sweeping.train("other", "seed=0", "eval.held_out=6", _SITE, "wait=true")
    assert sweeping.runs("other") == sweeping.runs("first")
    assert stages(sweeping, "other") == ["evaluate", "report"]

    sweeping.train("first", "seed=0", EVALUATED, "eval.num_samples=4", _SITE, "wait=true")
    assert stages(sweeping, "first")[3:] == ["evaluate", "report"]

    kinds = [event["kind"] for event in read_events(run_dir)]
    assert kinds.count("trained") == 1
    asked = [(e["eval_id"], e["num_samples"]) for e in read_events(run_dir) if e["kind"] == "evaluated"]
    assert [number for _, number in asked] == [2, 2, 4]  # the first suite, the other one, the first again
    assert asked[0][0] == asked[2][0] != asked[1][0]


def test_a_run_of_four_processes_on_two_nodes_ends_with_the_weights_of_one(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    wide = ("resources.train.nodes=2", "resources.train.gpus=2", "resources.train.cpus=2")
    sweeping.train("wide", "seed=0", UNEVALUATED, *wide, _SITE, "wait=true")
    (run_dir,) = sweeping.runs("wide").values()
    assert run_dir.name == undisturbed[0].name  # where it runs is no part of what it is
    assert read_run(run_dir).attempts == 1  # rank 0 keeps the books
    own, one = (
        load_file(f / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors")
        for f in (run_dir, undisturbed[0])
    )
    for name, weight in one.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=_NEAR)
    state = json.loads((run_dir / "checkpoints" / f"step-{STEPS:06d}" / "state.json").read_text())
    assert state["ranks"] == 4
