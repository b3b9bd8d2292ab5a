"""A store with run folders as workers leave them behind, without a worker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokensweep.files import write_json
from tokensweep.ledger import Attempt
from tokensweep.mlflow_client import connect
from tokensweep_analysis.samples import write_samples


def sample_row(**changes: Any) -> dict[str, Any]:
    """A correct sample with any column changed."""
    row = {
        "run_id": "run",
        "config_hash": "c0ffee",
        "seed": 0,
        "step": 4,
        "benchmark": "ops",
        "benchmark_revision": "rev1",
        "question_id": "q0",
        "sample_idx": 0,
        "sampling_seed": 1,
        "prompt_hash": "p",
        "decode_hash": "d",
        "n_prompt_tokens": 5,
        "n_output_tokens": 10,
        "finish_reason": "stop",
        "extracted": "7",
        "extract_rule": "last",
        "grade": "correct",
        "grader": "exact 1",
        "grader_status": "ok",
        "latency_s": 0.1,
        "text": "7",
    }
    return {**row, **changes}


def write_plan(
    store: Path,
    run_id: str,
    *,
    num_samples: int = 4,
    seed: int = 0,
    k: Sequence[int] = (1, 4),
    suite: str = "ops",
) -> Path:
    """The folder of a run that nobody has started yet."""
    folder = store / "runs" / run_id
    entry = {
        "suite": suite,
        "eval_id": f"e-{run_id}",
        "num_samples": num_samples,
        "k": list(k),
        "tau": [0.5],
        "answer_space": 10,
    }
    ratio = {"_component_": "method/ratio/holder", "p": 2.0}
    identity = {"seed": seed, "batch": {"prompts": 8}, "method": {"ratio": ratio}}
    plan = {"run_id": run_id, "code_sha": "abc123", "identity": identity, "evals": [entry]}
    write_json(folder / "plan.json", plan)
    method = {"name": "holderpo", "paper": "arXiv:2605.12058", "evidence": "code", "applies_to": ["any"]}
    write_json(folder / "config.json", {"seed": seed, "batch": {"prompts": 8}, "method": method})
    return folder


def write_run(
    store: Path,
    run_id: str,
    *,
    correct: Sequence[int],
    num_samples: int = 4,
    seed: int = 0,
    k: Sequence[int] = (1, 4),
    suite: str = "ops",
    columns: Mapping[str, Any] | None = None,
    steps: int = 4,
) -> None:
    """A finished run whose question i has ``correct[i]`` of ``num_samples`` samples correct."""
    folder = write_plan(store, run_id, num_samples=num_samples, seed=seed, k=k, suite=suite)
    rows = [
        sample_row(
            run_id=run_id,
            seed=seed,
            benchmark=suite,
            question_id=f"q{question}",
            sample_idx=sample,
            grade="correct" if sample < count else "wrong",
            **{"sampling_seed": sample, **(columns or {})},
        )
        for question, count in enumerate(correct)
        for sample in range(num_samples)
    ]
    with Attempt.open(folder) as attempt:
        for step in range(1, steps + 1):
            attempt.metrics(
                step, {"reward": 0.1 * step, "tokens/generated": 100.0, "loss/kept_fraction": 0.2}
            )
        attempt.event("trained", step=steps)
        write_samples(folder / "evals" / f"{suite}-e-{run_id}" / "samples-000.parquet", rows)
        attempt.event("evaluated", suite=suite, eval_id=f"e-{run_id}", num_samples=num_samples)
        attempt.event("finished")


def write_sweep(store: Path, entries: Sequence[tuple[str, int, str]], **changes: Any) -> None:
    """sweep.json of ``demo`` with (arm, seed, run_id) entries, baseline ``all``."""
    runs = [
        {
            "setting": "ops",
            "arm": arm,
            "seed": seed,
            "run_id": run_id,
            "overrides": [],
            "evals": {"ops": f"e-{run_id}"},
        }
        for arm, seed, run_id in entries
    ]
    content = {
        "name": "demo",
        "scale": "tiny",
        "paper": "arXiv:2506.01939",
        "question": "Do few tokens carry the signal?",
        "note": "Scale tiny tests the machinery and is no evidence about language models.",
        "baseline": "all",
        "runs": runs,
    }
    write_json(store / "sweeps" / "demo" / "sweep.json", {**content, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A sweep with two arms and two seeds; of arm ``top`` one run failed and one was never started."""
    write_run(tmp_path, "a0", correct=[4, 2, 0], seed=0)
    write_run(tmp_path, "a1", correct=[4, 1, 1], seed=1)
    write_run(tmp_path, "t0", correct=[4, 3, 1], seed=0)
    write_run(tmp_path, "t1", correct=[4, 2, 1], seed=1)
    write_plan(tmp_path, "t3", seed=3)
    with Attempt.open(write_plan(tmp_path, "t2", seed=2)) as attempt:
        attempt.failed(RuntimeError("loss is NaN at step 3 | batch [7]\nsecond line"))
    write_sweep(
        tmp_path,
        [
            ("all", 0, "a0"),
            ("top", 0, "t0"),
            ("all", 1, "a1"),
            ("top", 1, "t1"),
            ("top", 2, "t2"),
            ("top", 3, "t3"),
        ],
    )
    return tmp_path


@pytest.fixture
def make_run() -> Callable[..., None]:
    """:func:`write_run`, for tests that need runs of their own."""
    return write_run


@pytest.fixture
def make_sweep() -> Callable[..., None]:
    """:func:`write_sweep`, for tests that need a sweep of their own."""
    return write_sweep


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """:func:`sample_row`, for tests that write samples."""
    return sample_row


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the first sync makes it: MLflow's migrations take seconds, so tests copy this one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}", artifacts=path.parent / "mlartifacts")
    return path


@pytest.fixture
def uri(store: Path, migrated: Path) -> str:
    """The tracking URI of an empty MLflow database in the store."""
    shutil.copy(migrated, store / "mlflow.db")
    return f"sqlite:///{store / 'mlflow.db'}"
