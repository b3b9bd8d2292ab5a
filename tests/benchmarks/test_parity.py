"""vLLM against the trainer: the table says what was measured, every weight moves, the quick size runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.parity import main, move, to_markdown
from benchmarks.tables import README

from tokensweep.models.policy import Policy
from tokensweep.models.tiny import TinyModel
from tokensweep.problems.ops import Ops

_ROOT = Path(__file__).parents[2]
_WHERE = {
    "processor": "Abacus",
    "cores": 2,
    "load": 0.5,
    "date": "2026-01-01",
    "python": "3.11",
    "code": "c0de",
    "versions": {"torch": "2"},
}


def _case(*, holds: bool) -> dict[str, Any]:
    before = {"max": 0.5, "mean": 0.25, "holds": True}
    after = {"max": 0.75, "mean": 0.125, "holds": holds}
    return {
        "model": "tiny",
        "dtype": "bfloat16",
        "tokens": 92,
        "moved": 0.03,
        "before": before,
        "after": after,
    }


def test_a_row_has_both_differences_of_both_moments_and_what_a_run_does() -> None:
    text = to_markdown({"where": _WHERE, "cases": [_case(holds=True), _case(holds=False)]})
    figures = "| tiny | bfloat16 | 5.0e-01 | 2.5e-01 | 7.5e-01 | 1.2e-01 | 3.0e-02 | 92 |"
    assert f"{figures} yes |" in text
    assert f"{figures} **no** |" in text
    assert "Abacus, 2 cores" in text


def test_every_weight_moves_by_a_twentieth_of_its_size(tmp_path: Path) -> None:
    model = TinyModel(hidden=64, layers=1, heads=2, head_dim=32, mlp=64, steps=0)
    policy = Policy(model.materialise(data=Ops(size=1, steps=1), cache=tmp_path))
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    move(policy)
    for name, weight in policy.model.named_parameters():
        size = (weight - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
        # of n >= 32 numbers the standard deviation is good to 1 / sqrt(2 * 32) = 0.125; four times that
        assert float(size.detach()) == pytest.approx(0.05, rel=0.5), name


def test_the_page_has_room_for_the_table() -> None:
    page = README.read_text()
    assert page.count("<!-- parity:begin -->") == page.count("<!-- parity:end -->") == 1


def test_the_quick_size_is_of_its_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", "--models", "smollm2_135m"])
    assert "--quick has a model of its own" in capsys.readouterr().err


@pytest.mark.vllm
def test_the_quick_size_compares_vllm_with_the_trainer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.parity", "--quick", "--dtypes", "float32"],
        cwd=_ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = (line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| tiny"))
    assert row[1] == "float32"
    assert float(row[4]) < 1e-3 < float(row[6])  # it followed, and had a way to go
    assert row[-2:] == ["92", "yes |"]
