"""A confirmation as a user sees it: runs, a report with a verdict on each arm, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tokensweep.files import write_json
from tokensweep.ledger import read_run
from tokensweep.search.space import Parameter, Space
from tokensweep.search.spec import Sampler, Search, search_folder
from tokensweep.search.study import Study

pytestmark = pytest.mark.slow

_FRACTION = "method.token_weights.entropy.fraction"
_ASKED = 20  # questions; one-step chains have about 60 in the test split
_BASE = (
    *("scale=smoke", "method=forking_tokens", "data.steps=1", "data.size=64", "data.max_tokens=8"),
    *("model.hidden=48", "model.layers=2", "model.heads=3", "model.head_dim=16", "model.mlp=96"),
    *("model.steps=200", "batch.prompts=4", "eval.num_samples=8", f"eval.held_out={_ASKED}"),
)


def _confirm(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokensweep.cli", "confirm", *arguments, f"store={store}"],
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        cwd=store,
        capture_output=True,
        text=True,
        timeout=1500,  # of a loaded machine
        check=False,
    )


def _search(store: Path, *values: float) -> Study:
    """The study of a search whose trials were told these values."""
    space = Space((Parameter(key=_FRACTION, low=0.05, high=1.0),))
    search = Search(name="looking", space=space, base=_BASE, sampler=Sampler.random)
    folder = search_folder(store, search.name)
    planned = {"search": search.as_json(), "base_sha": "", "code_sha": "", "config": {"steps": 2}}
    write_json(folder / "search.json", planned)
    study = Study(search, folder, steps=2)
    for value in values:
        _tell(study, value)
    return study


def _tell(study: Study, value: float) -> None:
    asked = study.ask(0, is_alive=lambda element: True)
    assert asked is not None
    study.tell(asked, [value])


def test_a_confirmation_ends_with_verdicts_on_questions_that_the_search_has_not_asked(tmp_path: Path) -> None:
    study = _search(tmp_path, 0.3, 0.7, 0.5)
    done = _confirm(tmp_path, "looking", "--top", "1", "--seeds", "3")
    assert done.returncode == 0, done.stderr + done.stdout
    sweep = tmp_path / "sweeps" / "looking-confirm"
    report = (sweep / "report" / "report.md").read_text()
    (verdict,) = (line for line in report.splitlines() if line.startswith("| trial_001_beats_base |"))
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

    _tell(study, 0.9)  # the search goes on, and the confirmation keeps its arm
    again = _confirm(tmp_path, "looking", "--top", "1", "--seeds", "3")
    assert again.returncode == 0, again.stderr + again.stdout
    assert "6 runs, 0 to do, 6 finished before" in again.stdout
    assert "the search has 4 complete trials now, 3 then" in again.stdout
