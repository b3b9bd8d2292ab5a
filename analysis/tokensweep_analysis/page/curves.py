"""Training curves: a line per setting, arm and metric with the spread over seeds, from run folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokensweep.identity import read_json
from tokensweep.ledger import read_metrics

CURVES = ("reward", "entropy/mean", "length/mean", "loss/kept_fraction")
MAX_POINTS = 120  # a panel is about 300 pixels wide

Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric over the training of an arm. ``mean`` [P] is over the runs that reach a point, ``low`` and
    ``high`` [P] are the smallest and the largest of them."""

    setting: str
    arm: str
    metric: str
    seeds: tuple[int, ...]
    steps: tuple[float, ...]  # [P] optimiser batches; the mean of those that a point stands for
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_runs: tuple[int, ...]  # [P]
    window: int = 1  # steps that a point is the mean of


def read_curves(
    store: Path, name: str, *, arms: Collection[str] | None = None, metrics: Sequence[str] = CURVES
) -> list[Curve]:
    """Curves of the sweep ``name`` from whatever its runs have written so far, in the order of the sweep.

    Only ``arms`` are read, all if None: a thousand runs take seconds. A run that ended early leaves the
    mean at its last step, which ``num_runs`` shows. A damaged run folder is left out here; the comparison
    lists it. Raises ValueError when there is no such sweep.
    """
    groups: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for entry in read_json(store / "sweeps" / name / "sweep.json")["runs"]:
        if arms is None or entry["arm"] in arms:
            run = int(entry["seed"]), store / "runs" / entry["run_id"]
            groups.setdefault((entry["setting"], entry["arm"]), []).append(run)
    return [
        curve
        for (setting, arm), runs in groups.items()
        for curve in _curves(setting, arm, {seed: _rows(folder) for seed, folder in runs}, metrics)
    ]


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(folder)
    except ValueError:
        return []  # load_run reports it as unreadable, with the reason


def _curves(
    setting: str, arm: str, runs: Mapping[int, list[dict[str, Any]]], metrics: Sequence[str]
) -> Iterator[Curve]:
    for metric in metrics:
        series = {
            seed: {
                int(row["step"]): float(row["metrics"][metric])
                for row in rows
                if isfinite(row["metrics"].get(metric, nan))  # a run that broke down may end in NaN
            }
            for seed, rows in runs.items()
        }
        written = {seed: own for seed, own in series.items() if own}
        if written:
            yield curve_of(written, setting=setting, arm=arm, metric=metric)


def curve_of(
    series: Mapping[int, Mapping[int, float]],
    *,
    setting: str,
    arm: str,
    metric: str,
    points: int = MAX_POINTS,
) -> Curve:
    """One line from a value per seed and step, with at most ``points`` points.

    Where there are more steps, a point is the mean over a window of them, for each run by itself, and the
    spread is between those means. Raises ValueError for no series.
    """
    steps = sorted({step for own in series.values() for step in own})
    if not steps:
        raise ValueError(f"a curve needs a run with {metric}, got none")
    window = -(-len(steps) // points)
    place = {step: index // window for index, step in enumerate(steps)}
    num_points = place[steps[-1]] + 1
    runs = np.stack([_thinned(own, place, num_points) for own in series.values()])  # [S, P], NaN: not reached
    return Curve(
        setting=setting,
        arm=arm,
        metric=metric,
        seeds=tuple(series),
        steps=tuple(_thinned({step: float(step) for step in steps}, place, num_points).tolist()),
        mean=tuple(np.nanmean(runs, axis=0).tolist()),
        low=tuple(np.nanmin(runs, axis=0).tolist()),
        high=tuple(np.nanmax(runs, axis=0).tolist()),
        num_runs=tuple(np.isfinite(runs).sum(axis=0).tolist()),
        window=window,
    )


def _thinned(values: Mapping[int, float], place: Mapping[int, int], num_points: int) -> Series:
    """Means of the values that fall on a point, [P]; NaN where none does."""
    index = np.fromiter((place[step] for step in values), dtype=np.intp)
    sums = np.bincount(index, weights=np.fromiter(values.values(), dtype=np.float64), minlength=num_points)
    counts = np.bincount(index, minlength=num_points)
    means: Series = np.divide(sums, counts, out=np.full(num_points, np.nan), where=counts > 0)
    return means
