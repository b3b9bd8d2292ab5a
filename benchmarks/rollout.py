"""Rollout engines side by side: tokens per CPU second and per wall second on the same work.

    python -m benchmarks.rollout [--quick] [--rounds N] [--engines NAME ...]

Every engine that is registered and installed starts once, in a process of its own, and stays. In each round
all of them get the weights and draw the same requests, one after the other, in an order that moves on by one:
a ratio is taken within a round, so that a busy moment of the machine falls on both sides of most of them.
Start-up is measured apart. ``--quick`` proves in seconds that it works, and keeps nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scipy import stats

import benchmarks.words as words
from benchmarks.__main__ import child_environment, machine
from benchmarks.tables import README, insert_tables, short, where_line
from tokensweep.compose import register_components
from tokensweep.files import write_json
from tokensweep.registry import components

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = Path(__file__).resolve().parent / "results"
_ENGINES = {"torch": "torch", "hf": "transformers", "vllm": "vllm"}  # with the module that each is made of
BASELINE = "torch"
_CONFIDENCE = 0.95

Costs = Mapping[str, Any]  # what a child has said: start, then sync, draw and tokens of every round


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every engine does in a round: ``samples`` completions for each prompt, all with other seeds."""

    name: str
    model: Callable[[Path], Path]  # writes a Hugging Face folder below a folder that it is given
    prompts: tuple[str, ...]
    samples: int
    new_tokens: int  # at most; a model that can end a completion may draw fewer
    rounds: int


def _words_work(*, rounds: int, prompts: int, samples: int, new_tokens: int, **shape: int) -> Work:
    """Random weights, which end a completion with a probability of about 1 in ``vocab`` per token."""
    source = words.Words(vocab=shape["vocab"], prompt_tokens=shape["prompt_tokens"])
    return Work(
        name=f"Qwen3, random weights, {shape['layers']} layers, H = {shape['hidden']}, V = {shape['vocab']}",
        model=lambda folder: words.write_model(folder / "words", shape, ends=True),
        prompts=tuple(source[index].prompt for index in range(prompts)),
        samples=samples,
        new_tokens=new_tokens,
        rounds=rounds,
    )


def _smollm2(folder: Path) -> Path:
    from tokensweep.models.smollm2 import SmolLm2Model

    return SmolLm2Model().materialise(data=None, cache=folder)


FULL = (
    _words_work(
        **{"rounds": 7, "prompts": 16, "samples": 8, "prompt_tokens": 16, "new_tokens": 64},
        **{"vocab": 4096, "hidden": 256, "layers": 4},
    ),
    Work(
        name="SmolLM2-135M-Instruct",
        model=_smollm2,
        prompts=tuple(f"Question: what is {a} + {a + 3} * 2? Let us think.\nAnswer:" for a in range(10, 18)),
        samples=4,
        new_tokens=64,
        rounds=5,
    ),
)
QUICK = (
    _words_work(
        **{"rounds": 2, "prompts": 2, "samples": 2, "prompt_tokens": 4, "new_tokens": 4},
        **{"vocab": 64, "hidden": 64, "layers": 1},
    ),
)


def available() -> tuple[str, ...]:
    """The engines that are registered and whose package is installed."""
    register_components()
    known = components("rollout")
    return tuple(
        name for name, module in _ENGINES.items() if name in known and importlib.util.find_spec(module)
    )


def run_work(work: Work, engines: Sequence[str], *, rounds: int) -> dict[str, list[Costs]]:
    """The cost of every engine's start, then of each round. Raises SystemExit when one dies."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        asked = {
            "model": str(work.model(Path(scratch))),
            "prompts": work.prompts,
            "samples": work.samples,
            "new_tokens": work.new_tokens,
        }
        children, told = {}, {}
        for engine in engines:
            print(f"{work.name}: {engine} starts", file=sys.stderr, flush=True)
            log = Path(scratch) / f"{engine}.log"
            children[engine] = stack.enter_context(_child({**asked, "engine": engine}, log=log))
            told[engine] = [children[engine]()]
        for number in range(rounds):
            for place in range(len(engines)):
                engine = engines[(number + place) % len(engines)]
                print(f"{work.name}: {engine} ({number + 1}/{rounds})", file=sys.stderr, flush=True)
                told[engine].append(children[engine]())
    return told


@contextmanager
def _child(asked: Mapping[str, Any], *, log: Path) -> Iterator[Callable[[], Costs]]:
    """An engine in its process; each call gives its next answer, the first that it has started."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rollout_child", json.dumps(asked)],
            cwd=_ROOT,
            env={**os.environ, **child_environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        answers = _answers(process.stdin, process.stdout)
        try:
            yield lambda: _next(answers, engine=asked["engine"], log=log)
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()  # the child closes its engine and ends


def _answers(questions: IO[str], answers: IO[str]) -> Iterator[Costs]:
    """The child's lines; from the second on it is asked for each."""
    while line := answers.readline():
        yield json.loads(line)
        with suppress(BrokenPipeError):  # then there is no line either
            questions.write("\n")
            questions.flush()


def _next(answers: Iterator[Costs], *, engine: str, log: Path) -> Costs:
    answer = next(answers, None)
    if answer is None:
        print(log.read_text()[-5000:], file=sys.stderr)
        raise SystemExit(f"the engine {engine} ended before it had answered, see above")
    return answer


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ``ratios`` with its 95 % interval, a t interval of their logarithms.

    From one ratio there is no interval: its bounds are 0 and infinity.
    """
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def to_markdown(result: Mapping[str, Any]) -> str:
    """A table per model, and a line on where it was measured. Rates are geometric means over the rounds."""
    parts = []
    for name, told in result["cases"].items():
        heads = ["engine", "tokens per CPU s", f"ratio to {BASELINE}", "tokens per wall s"]
        heads += [f"ratio to {BASELINE}", "sync, wall ms", "start, CPU s", "start, wall s", "rounds"]
        rows = [_row(engine, costs, told.get(BASELINE)) for engine, costs in told.items()]
        lines = [heads, ["---", *["---:"] * 8], *rows]
        parts += [f"### {name}\n", *(f"| {' | '.join(line)} |" for line in lines), ""]
    return "\n".join([*parts, f"{where_line(result['where'])}\n"])


def _row(engine: str, costs: Sequence[Costs], base: Sequence[Costs] | None) -> list[str]:
    start, rounds = costs[0]["start"], costs[1:]
    cells = [engine]
    for kind in ("cpu_s", "wall_s"):
        own = [_rate(each, kind) for each in rounds]
        cells.append(short(statistics.geometric_mean(own)))
        theirs = [_rate(each, kind) for each in base[1:]] if base else []
        compared = theirs and engine != BASELINE
        cells.append(_ratio([a / b for a, b in zip(own, theirs, strict=True)]) if compared else "-")
    sync_ms = 1000 * statistics.median(each["sync"]["wall_s"] for each in rounds)
    return [*cells, f"{sync_ms:.1f}", short(start["cpu_s"]), short(start["wall_s"]), str(len(rounds))]


def _rate(costs: Costs, kind: str) -> float:
    """Tokens per second of a draw."""
    return float(costs["tokens"] / costs["draw"][kind])


def _ratio(ratios: Sequence[float]) -> str:
    mean, low, high = interval(ratios)
    if len(ratios) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 1 when an engine fails, and with the end of its log."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout", description="Rollout engines on the same work, one thread each."
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, printed and not kept")
    parser.add_argument("--rounds", type=int, help="of every model, instead of what it says itself")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help=f"of {', '.join(_ENGINES)}")
    parser.add_argument("--only-tables", action="store_true", help="write the tables from the results kept")
    options = parser.parse_args(arguments)
    known = available()
    if unknown := sorted(set(options.engines or ()) - set(known)):
        parser.error(f"no engine {', '.join(unknown)} here: there are {', '.join(known)}")
    engines = tuple(dict.fromkeys(options.engines or known))
    kept = _RESULTS / "rollout.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if options.only_tables else {"cases": {}}
    for work in () if options.only_tables else QUICK if options.quick else FULL:
        result["cases"][work.name] = run_work(work, engines, rounds=options.rounds or work.rounds)
        result["where"] = machine()
        if not options.quick:
            write_json(kept, result)
    print(to_markdown(result))
    if not options.quick:
        insert_tables(README, {"rollout": to_markdown(result)}, block="rollout")


if __name__ == "__main__":
    main()
