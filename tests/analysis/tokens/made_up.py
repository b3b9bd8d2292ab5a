"""Token tables that can be checked by hand, and a run that stored its rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tokensweep.compose import freeze_run, register_components
from tokensweep.files import write_json
from tokensweep.identity import digest
from tokensweep.ledger import Attempt
from tokensweep.problems.protocol import ProblemSource
from tokensweep.registry import build
from tokensweep.train.trainer import run_training


def make_rollouts(rollouts: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Stored rollouts; each needs ``entropy`` and may replace any column."""
    rows = []
    for number, given in enumerate(rollouts):
        entropy = list(given["entropy"])
        row = {
            "step": 1,
            "problem_id": f"p{number}",
            "group": number,
            "sample": 0,
            "minibatch": 0,
            "grade": "correct",
            "prompt_ids": [1],
            "token_ids": list(range(len(entropy))),
            "old_entropy": entropy,
            "advantages": [0.0] * len(entropy),
            "weights": [1.0] * len(entropy),
            "active": [True] * len(entropy),
        }
        rows.append({**row, **{name: value for name, value in given.items() if name != "entropy"}})
    return pd.DataFrame(rows)


def make_tokens(step: int = 1, **columns: Sequence[Any]) -> pd.DataFrame:
    """A token table of one rollout with the given columns; the others have neutral values."""
    size = len(next(iter(columns.values())))
    neutral: dict[str, Any] = {
        "problem_id": "p",
        "group": 0,
        "sample": 0,
        "minibatch": 0,
        "grade": "correct",
        "position": np.arange(size),
        "token_id": np.arange(size),
        "token": [f"t{number}" for number in range(size)],
        "entropy": np.zeros(size),
        "base_entropy": np.nan,
        "weight": 1.0,
        "advantage": 0.0,
        "active": True,
    }
    return pd.DataFrame({"step": step, **neutral, **columns}, index=range(size))


def train_run(store: Path, name: str, *overrides: str) -> Path:
    """The folder of a run of three steps of a model with random weights, all rollouts stored."""
    register_components()
    small = ("scale=smoke", "model.steps=0", "model.hidden=16", "model.layers=1", "model.heads=1")
    more = ("steps=3", "store_rollouts.every=1", "store_rollouts.share=1", "checkpoint.keep=2")
    config = freeze_run([*small, *more, "rollout=torch", "model=tiny", "data=ops", *overrides])
    # A random model is never right: groups without a signal have to stay, or nothing would be stored.
    config["method"]["allocation"] = {"_component_": "method/allocation/uniform"}
    folder = store / "runs" / name
    source: ProblemSource = build(config["data"])
    revision = build(config["model"]).revision(data=source)
    plan = {"run_id": name, "config_sha": digest(config), "model_revision": revision, "evals": []}
    write_json(folder / "config.json", config)
    write_json(folder / "plan.json", plan)
    with Attempt.open(folder) as attempt:
        run_training(config, folder, attempt, cache=store / "models")
        attempt.event("trained", step=3)
        attempt.event("finished")
    return folder
