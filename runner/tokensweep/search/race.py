"""A trial's evaluation against the best trial so far: given up once its questions say that it is behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensweep.identity import read_json

_FEWEST = 8  # questions, below which a rank test says nothing


class Race:
    """Scores of a run by question, compared with those of the best trial whenever more of them are there.

    A look compares the questions that both have answered in full, by Optuna's ``WilcoxonPruner`` (one-sided
    signed-rank test; a trial that is ahead on average is never given up). The looks share ``chance``: each
    tests at ``chance`` divided by how many there can be, so a trial whose differences to the best are
    symmetric around zero is given up with at most that chance (union bound). Samples reach the disk in
    shards, so there is a look per shard but the last.
    """

    def __init__(self, run_dir: Path, *, best: Path | None, chance: float, shard: int) -> None:
        self._run_dir, self._best = run_dir, best
        self._chance, self._shard = chance, shard
        self._seen = 0  # questions at the last look

    def look(self) -> str:
        """Why the run is not worth evaluating further; empty as long as it may be."""
        if self._best is None or self._best == self._run_dir:
            return ""
        entries = read_json(self._run_dir / "plan.json")["evals"]
        total = sum(entry["num_questions"] for entry in entries)
        samples = sum(entry["num_questions"] * entry["num_samples"] for entry in entries)
        looks = math.ceil(samples / self._shard) - 1
        own = _scores(self._run_dir, entries)
        if looks < 1 or len(own) == self._seen or not _FEWEST <= len(own) < total:
            return ""
        self._seen = len(own)
        best = _scores(self._best, read_json(self._best / "plan.json")["evals"])
        threshold = self._chance / looks
        if not is_behind(own, best, threshold=threshold):
            return ""
        return (
            f"behind the best trial on {len(own.keys() & best.keys())} of {total} questions (Wilcoxon, p < "
            f"{threshold:.2g}, one of {looks} looks)"
        )


def is_behind(own: Mapping[str, float], best: Mapping[str, float], *, threshold: float) -> bool:
    """Whether Optuna's ``WilcoxonPruner`` would give up scores for those of the best, by question."""
    import optuna

    from tokensweep.search.quiet import quietly

    shared = sorted(own.keys() & best.keys())
    values = [best[each] for each in shared]
    with quietly():
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=threshold, n_startup_steps=_FEWEST)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.add_trial(
            optuna.trial.create_trial(
                value=sum(values) / max(1, len(values)), intermediate_values=dict(enumerate(values))
            )
        )
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            intermediate_values={place: own[each] for place, each in enumerate(shared)},
        )
        return bool(pruner.prune(study, trial))


def _scores(run_dir: Path, entries: list[Mapping[str, Any]]) -> dict[str, float]:
    """The share of right samples of every question that has all of them."""
    from tokensweep_analysis.samples import read_samples

    scores: dict[str, float] = {}
    for entry in entries:
        frame = read_samples([run_dir / "evals" / f"{entry['suite']}-{entry['eval_id']}"], text=False)
        frame = frame[frame["sample_idx"] < entry["num_samples"]]
        for question, right in (frame["grade"] == "correct").groupby(frame["question_id"]):
            if len(right) == entry["num_samples"]:
                scores[f"{entry['suite']}/{question}"] = float(right.mean())
    return scores
