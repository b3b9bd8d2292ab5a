"""Searches that nobody ran: rows of ``trials.json``, and stores that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.analysis.conftest import write_plan, write_run, write_sweep

from tokensweep.files import write_json
from tokensweep.ledger import Attempt
from tokensweep_analysis.search.stored import Study, read_study

FRACTION = {"key": "method.fraction", "low": 0.05, "high": 1.0}
ACCURACY = {"name": "accuracy", "direction": "maximize"}
TOKENS = {"name": "tokens", "direction": "minimize"}


def a_trial(number: int, value: float | Sequence[float] | None = None, **changes: Any) -> dict[str, Any]:
    """A row: complete with ``value``, or with any key changed."""
    values = [value] if isinstance(value, (int, float)) else value
    row = {
        "number": number,
        "arm": f"trial-{number:03d}",
        "state": "complete",
        "params": {"method.fraction": 0.05 + 0.9 * (number % 10) / 10},
        "values": None if values is None else list(values),
        "intermediate": {"2": 0.25},
        "pruned_step": None,
        "runs": {"0": f"r{number}s0"},
        "reason": None,
        "counted": True,
        "started": 1000.0 + number,
        "ended": 1060.0 + number,
    }
    return {**row, **changes}


def a_pruned(number: int, *, step: int = 2, **changes: Any) -> dict[str, Any]:
    """A trial that was given up."""
    return a_trial(number, **{"state": "pruned", "pruned_step": step, **changes})


def a_search(trials: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """The content of ``trials.json``."""
    content = {
        "name": "demo",
        "sampler": "tpe",
        "pruner": "asha",
        "objectives": [ACCURACY],
        "planned": len(trials),
        "space": [FRACTION],
        "trials": list(trials),
    }
    return {**content, **changes}


def write_trials(store: Path, content: Mapping[str, Any]) -> Path:
    """Write it into the sweep ``demo`` of a store; the path."""
    path = store / "sweeps" / "demo" / "search" / "trials.json"
    write_json(path, content)
    return path


def a_study(folder: Path, trials: Sequence[Mapping[str, Any]], **changes: Any) -> Study:
    """The search as it is read."""
    return read_study(write_trials(folder, a_search(trials, **changes)))


def write_search(store: Path, trials: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """A store with the search ``demo``: complete trials have runs that answer four questions; its sweep.

    A trial whose value is x has samples of which about the share x is right.
    """
    entries = []
    for row in trials:
        for seed, run_id in row["runs"].items():
            entries.append((row["arm"], int(seed), run_id))
            if row["state"] == "complete":
                right = round(16 * row["values"][0])
                correct = [right // 4 + (place < right % 4) for place in range(4)]
                write_run(store, run_id, correct=correct, seed=int(seed))
            elif row["state"] == "failed":
                with Attempt.open(write_plan(store, run_id, seed=int(seed))) as attempt:
                    attempt.failed(RuntimeError("loss is NaN"))
            else:
                write_plan(store, run_id, seed=int(seed))
    write_sweep(store, entries, baseline=None)
    write_trials(store, a_search(trials, **changes))
    return store / "sweeps" / "demo"
