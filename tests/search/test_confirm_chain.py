"""A confirmation as a user sees it: runs, a report with a verdict on each arm, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tokensweep.ledger import read_run
from tokensweep.search.space import Parameter, Space
from tokensweep.search.spec import Search, search_folder

pytestmark = pytest.mark.slow

_FRACTION = "method.token_weights.entropy.fraction"
_ASKED = 20  # questions; one-step chains have about 60 in the test split
_BASE = (
    *("scale=smoke", "method=forking_tokens", "data.steps=1", "data.size=64", "data.max_tokens=8"),
    *("model.hidden=48", "model.layers=2", "model.heads=3", "model.head_dim=16", "model.mlp=96"),
    *("model.steps=100", "batch.prompts=4", f"eval.held_out={_ASKED}"),
)


def _confirm(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokensweep.cli", "confirm", *arguments, f"store={store}"],
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        cwd=store,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_a_confirmation_ends_with_verdicts_on_questions_that_the_search_has_not_asked(tmp_path: Path) -> None:
    space = Space((Parameter(key=_FRACTION, low=0.05, high=1.0),))
    search = Search(name="looking", space=space, base=_BASE, seeds=(0,))
    folder = search_folder(tmp_path, search.name)
    folder.mkdir(parents=True)
    rows = [
        {
            **{"number": number, "arm": f"trial-{number:03d}", "state": "complete", "counted": True},
            **{"params": {_FRACTION: fraction}, "values": [value], "runs": {}},
        }
        for number, (fraction, value) in enumerate([(0.9, 0.3), (0.4, 0.7), (0.1, 0.5)])
    ]
    (folder / "search.json").write_text(json.dumps({"search": search.as_json()}))
    (folder / "trials.json").write_text(json.dumps({"trials": rows}))

    done = _confirm(tmp_path, "looking", "--top", "1", "--seeds", "3")
    assert done.returncode == 0, done.stderr + done.stdout
    sweep = tmp_path / "sweeps" / "looking-confirm"
    report = (sweep / "report" / "report.md").read_text()
    (verdict,) = (line for line in report.splitlines() if "trial_001_beats_base" in line)
    assert any(word in verdict for word in ("reproduced", "refuted", "inconclusive"))
    assert "free of the winner's curse" in " ".join(report.split())
    runs = json.loads((sweep / "sweep.json").read_text())["runs"]
    assert {(row["arm"], row["seed"]) for row in runs} == {
        (arm, seed) for arm in ("base", "trial-001") for seed in (1, 2, 3)
    }
    asked = set()
    for row in runs:
        run_dir = tmp_path / "runs" / row["run_id"]
        assert read_run(run_dir).status == "finished"
        for path in run_dir.glob("evals/*/*.parquet"):
            asked.update(parquet.read_table(path)["question_id"].to_pylist())
    assert asked == {f"ops-test-{index}" for index in range(_ASKED, 2 * _ASKED)}

    (folder / "trials.json").write_text(
        json.dumps({"trials": [*rows, {**rows[0], "number": 3, "values": [0.9]}]})
    )
    again = _confirm(tmp_path, "looking", "--top", "1", "--seeds", "3")
    assert again.returncode == 0, again.stderr + again.stdout
    assert "6 runs, 0 to do, 6 finished before" in again.stdout
