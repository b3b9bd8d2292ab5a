"""``python -m benchmarks``: run benchmarks, keep their numbers, put the tables into benchmarks/README.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import load
from benchmarks.frame import Benchmark, Case
from benchmarks.tables import README, insert_tables, to_markdown
from tokensweep.files import write_json
from tokensweep.identity import code_sha

NAMES = ("head", "step", "engines", "planning", "syncing", "reporting")
_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = Path(__file__).resolve().parent / "results"
_LIBRARIES = ("torch", "transformers", "trl", "liger-kernel", "hydra-core", "mlflow")
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that spins while it waits would count as work
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 1 when a variant fails, and with the error of the process that did."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure tokensweep against the alternatives: CPU seconds and peak memory, one thread.",
        epilog="Every variant runs in a process of its own, in turns with the others. All of it takes about "
        "25 minutes on a quiet machine; --small proves in a minute that it works, and keeps nothing.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, printed and not kept")
    parser.add_argument("--rounds", type=int, help="of every variant, instead of what the case says")
    parser.add_argument(
        "--only-tables", action="store_true", help="write the tables again from the results kept"
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the results kept")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no benchmark {', '.join(unknown)}: known are {', '.join(NAMES)}")
    for name in [] if options.only_tables else options.names or NAMES:
        result: dict[str, Any] = {}
        for result in run(load(name), name, small=options.small, rounds=options.rounds):
            if not options.small:
                write_json(options.results / f"{name}.json", result)
        print(to_markdown(load(name), result))
    if not options.small:
        known = {name: options.results / f"{name}.json" for name in NAMES}
        results = {name: json.loads(path.read_text()) for name, path in known.items() if path.is_file()}
        insert_tables(README, {name: to_markdown(load(name), result) for name, result in results.items()})
        print(f"the tables stand in {README}", file=sys.stderr)


def run(
    benchmark: Benchmark, name: str, *, small: bool, rounds: int | None = None
) -> Iterator[dict[str, Any]]:
    """What was measured, where and with which versions: once after each case, with all cases so far."""
    cases: dict[str, Any] = {}
    for case in benchmark.small if small else benchmark.cases:
        cases[case.name] = _run_case(name, case, rounds=rounds or case.rounds)
        yield {"where": machine(), "cases": cases}


def _run_case(name: str, case: Case, *, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Rounds of every variant, in turns."""
    measured: dict[str, list[dict[str, float]]] = {variant: [] for variant in case.variants}
    for number in range(1, rounds + 1):
        for variant in case.variants:
            print(f"{name}: {case.name}: {variant} ({number}/{rounds})", file=sys.stderr, flush=True)
            measured[variant].append(_measure(name, variant, case))
    return measured


def _measure(name: str, variant: str, case: Case) -> dict[str, float]:
    """One round of one variant, in a fresh process."""
    work = json.dumps({"variant": variant, "options": dict(case.options)})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", name, work],
        cwd=_ROOT,
        env={**os.environ, **child_environment()},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"{name}: {variant} failed, see above; it needs what 'make test' installs")
    measurement: dict[str, float] = json.loads(done.stdout)
    return measurement


def child_environment() -> dict[str, str]:
    """Variables for a process that measures: one thread, nothing from the network, this checkout's code."""
    paths = [str(_ROOT / source) for source in ("runner", "analysis")] + [os.environ.get("PYTHONPATH", "")]
    return {**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "code": code_sha()[:12],
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
