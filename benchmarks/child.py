"""One round of one variant: ``python -m benchmarks.child BENCHMARK JSON`` prints its measurement as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys

from benchmarks.frame import Benchmark


def load(name: str) -> Benchmark:
    """The benchmark of a module of this package."""
    benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    return benchmark


def main(name: str, work: str) -> None:
    """Measure and print; whatever the measured code prints goes to standard error."""
    asked = json.loads(work)
    with contextlib.redirect_stdout(sys.stderr):
        measurement = load(name).measure(asked["variant"], **asked["options"])
    print(json.dumps(dataclasses.asdict(measurement)))


if __name__ == "__main__":
    main(*sys.argv[1:])
