"""Put what methods tell of themselves in a finished sweep into a document: did they do what they say?

    python -m benchmarks.own_metrics STORE SWEEP DOCUMENT

It replaces what stands between the lines ``<!-- metrics:begin -->`` and ``<!-- metrics:end -->`` with a row
for every metric below ``method/`` and ``probe/`` of every arm: its mean over the first quarter of the steps
and over the last, each as the mean over seeds with the lowest and the highest seed. Runs that are not
finished are left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markers import insert
from tokensweep.identity import read_json
from tokensweep.ledger import Status, read_metrics, read_run

_FAMILIES = ("method/", "probe/")
_PARTS = 4  # the first and the last quarter of the steps are compared

Ends = tuple[float, float]  # mean over the first steps and over the last


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 2 and one line on what is wrong."""
    parser = argparse.ArgumentParser(description="Put the methods' own metrics of a sweep into a document.")
    parser.add_argument("store", type=Path, help="folder with runs/ and sweeps/")
    parser.add_argument("sweep", help="name of the sweep there, for example zoo-tiny")
    parser.add_argument("document", type=Path, help="a file with the lines metrics:begin and metrics:end")
    options = parser.parse_args(arguments)
    try:
        insert(options.document, "metrics", to_markdown(own_metrics(options.store, options.sweep)))
    except (ValueError, OSError) as error:
        print(f"own_metrics: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def own_metrics(store: Path, sweep: str) -> dict[tuple[str, str, str], list[Ends]]:
    """Of each (setting, arm, metric) what each finished run has of it."""
    found: dict[tuple[str, str, str], list[Ends]] = {}
    for entry in read_json(store / "sweeps" / sweep / "sweep.json")["runs"]:
        run_dir = store / "runs" / entry["run_id"]
        if read_run(run_dir).status is not Status.finished:
            continue
        for name, ends in ends_of(read_metrics(run_dir)):
            found.setdefault((entry["setting"], entry["arm"], name), []).append(ends)
    arms, settings = (list(dict.fromkeys(key[place] for key in found)) for place in (1, 0))
    in_order = sorted(found, key=lambda key: (arms.index(key[1]), settings.index(key[0]), key[2]))
    return {key: found[key] for key in in_order}


def ends_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Ends]]:
    """Each own metric of metrics rows {step, metrics} with its means over the first and the last steps."""
    own = [{k: v for k, v in row["metrics"].items() if k.startswith(_FAMILIES)} for row in rows]
    for name in sorted({name for row in own for name in row}):
        values = [row[name] for row in own if name in row]
        size = max(1, len(values) // _PARTS)
        yield name, (math.fsum(values[:size]) / size, math.fsum(values[-size:]) / size)


def to_markdown(found: Mapping[tuple[str, str, str], Sequence[Ends]]) -> str:
    """A row per setting, arm and metric. Raises ValueError where there is none."""
    if not found:
        raise ValueError("no finished run of the sweep has a metric of its method: nothing to write")
    rows = ["| setting | arm | metric | first steps | last steps |", "| --- | --- | --- | ---: | ---: |"]
    for (setting, arm, name), ends in found.items():
        first, last = zip(*ends, strict=True)
        rows.append(f"| {setting} | {arm} | `{name}` | {_spread(first)} | {_spread(last)} |")
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    """The mean over seeds, and between which values they lie."""
    mean = f"{math.fsum(values) / len(values):.3g}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3g}, {max(values):.3g}]"


if __name__ == "__main__":
    main()
