"""What an element of a search pays to ask: a study with many trials is opened, and one more trial chosen.

    python -m benchmarks.asking [--quick]

The study is filled with trials of three parameters and five reports each, whose values a known function
gives. An element is a new process each time, as in a search: *open* replays the study, *ask* chooses values,
*report* tells one step and asks whether to prune, *tell* ends the trial. Medians over the rounds, in seconds
of CPU.
``--quick`` proves in seconds that it works, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from benchmarks.__main__ import child_environment, machine
from benchmarks.tables import README, insert_tables, short, where_line
from tokensweep.composer import parse
from tokensweep.files import write_json
from tokensweep.search.quiet import quietly
from tokensweep.search.space import Space, parameter_of
from tokensweep.search.spec import Pruner, Sampler, Search
from tokensweep.search.study import Study

_ROOT = Path(__file__).resolve().parent.parent
_KEPT = Path(__file__).resolve().parent / "results" / "asking.json"
_STEPS, _RUNGS = 40, (8, 16, 24, 32, 40)
_PARTS = ("open", "ask", "report", "tell")
_SAMPLERS = (Sampler.random, Sampler.tpe, Sampler.cmaes, Sampler.nsgaii, Sampler.gp)
_SPACE = Space(
    tuple(
        map(parameter_of, parse(["x=interval(0,1)", "n=int(interval(1,64))", "lr=tag(log,interval(1e-5,1))"]))
    )
)


def search_of(sampler: Sampler, *, trials: int) -> Search:
    return Search(
        name="asking", space=_SPACE, trials=trials, sampler=sampler, pruner=Pruner.asha, rung=8, warmup=8
    )


def fill(folder: Path, *, trials: int) -> None:
    """A study with so many complete trials, as elements would have left them."""
    study = Study(search_of(Sampler.random, trials=trials), folder, steps=_STEPS)
    with quietly():
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
        for number in range(trials):
            trial = drawn.ask()
            params = _SPACE.suggest(trial)
            height = -((float(params["x"] or 0) - 0.3) ** 2)
            for step in _RUNGS:
                trial.report(height * math.exp(-step / _STEPS), step)
            trial.set_user_attr("element", number)
            trial.set_user_attr("runs", {"0": f"{number:08x}-{number:08x}"})
            drawn.tell(trial, height)
        study._study.add_trials(drawn.trials)


def one_element(folder: Path, sampler: Sampler, *, trials: int, number: int) -> dict[str, float]:
    """CPU seconds of each part of an element's talk with the study."""
    marks = [time.process_time()]

    def lap() -> None:
        marks.append(time.process_time())

    study = Study(search_of(sampler, trials=trials + number + 1), folder, steps=_STEPS)
    lap()
    asked = study.ask(trials + number, is_alive=lambda _: True)
    assert asked is not None
    lap()
    study.report(asked, _RUNGS[0], -0.1)
    lap()
    study.tell(asked, [-0.1])
    lap()
    return {part: after - before for part, before, after in zip(_PARTS, marks, marks[1:], strict=False)}


def measure(*, trials: int, rounds: int, samplers: Sequence[Sampler]) -> dict[str, list[dict[str, float]]]:
    """The costs of every round by sampler; each round is a process of its own."""
    told: dict[str, list[dict[str, float]]] = {sampler: [] for sampler in samplers}
    with tempfile.TemporaryDirectory() as scratch:
        for sampler in samplers:
            folder = Path(scratch) / sampler / "asking" / "search"
            fill(folder, trials=trials)
            for number in range(rounds):
                print(f"{trials} trials: {sampler} ({number + 1}/{rounds})", file=sys.stderr, flush=True)
                told[sampler].append(_child(folder, sampler, trials=trials, number=number))
    return told


def _child(folder: Path, sampler: Sampler, *, trials: int, number: int) -> dict[str, float]:
    words = ["--element", str(folder), sampler, str(trials), str(number)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.asking", *words],
        cwd=_ROOT,
        env={**os.environ, **child_environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"an element of {sampler} failed:\n{done.stderr}")
    costs: dict[str, float] = json.loads(done.stdout)
    return costs


def to_markdown(result: Mapping[str, Any]) -> str:
    """A table per number of trials, and where it was measured."""
    parts: list[str] = []
    for trials, told in result["cases"].items():
        heads = ["sampler", *(f"{part}, CPU s" for part in _PARTS), "rounds"]
        rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
        for sampler, rounds in told.items():
            medians = [statistics.median(each[part] for each in rounds) for part in _PARTS]
            rows.append([sampler, *map(short, medians), str(len(rounds))])
        parts += [f"### {trials} trials\n", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join([*parts, f"{where_line(result['where'])}\n"])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asking", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few trials, printed and not kept")
    parser.add_argument("--element", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.element:
        folder, sampler, trials, number = options.element
        costs = one_element(Path(folder), Sampler(sampler), trials=int(trials), number=int(number))
        print(json.dumps(costs))
        return
    result: dict[str, Any] = {"cases": {}}
    for trials, rounds in ((12, 1),) if options.quick else ((100, 3), (1000, 3)):
        samplers = _SAMPLERS[:2] if options.quick else _SAMPLERS
        result["cases"][str(trials)] = measure(trials=trials, rounds=rounds, samplers=samplers)
        result["where"] = machine()
    print(to_markdown(result))
    if not options.quick:
        write_json(_KEPT, result)
        insert_tables(README, {"asking": to_markdown(result)}, block="asking")


if __name__ == "__main__":
    main()
