"""One engine in a process of its own: ``python -m benchmarks.rollout_child WORK`` with WORK as JSON.

Prints one JSON line when it has started, then one for every line of its standard input: a weight sync and a
draw, each with CPU and wall seconds. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a piece of work took."""

    cpu_s: float  # of this process and of all that it has started, threads included
    wall_s: float


def cost_of(work: Callable[[], object]) -> Cost:
    """Cost of ``work()``, called once. Linux only.

    A process that the work talks to, such as a server, counts as long as this one or one of its descendants
    has started it; its CPU seconds come in ticks of 10 ms. Looking them up is not counted.
    """
    others = _live_s()
    own, began = _own_s(), time.perf_counter()
    work()
    wall_s, own = time.perf_counter() - began, _own_s() - own
    return Cost(cpu_s=own + _live_s() - others, wall_s=wall_s)


def _own_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _live_s() -> float:
    """CPU seconds of the descendants that are running, and of what has ended below them."""
    table = dict(_processes())
    wanted, ticks = [os.getpid()], 0
    while wanted:
        parent = wanted.pop()
        for pid, (above, spent) in table.items():
            if above == parent:
                wanted.append(pid)
                ticks += spent
    return ticks / _TICKS


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    """Every process with its parent and its ticks: user, system, and those of children it has waited for."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        yield int(path.parent.name), (int(fields[1]), sum(int(field) for field in fields[11:15]))


def main(work: str) -> None:
    """Start, answer, end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines and their servers print must not get between the answers
    asked = json.loads(work)
    engine, policy, requests = _prepare(asked)

    def start() -> None:
        engine.load(policy, version=0)
        engine.generate(requests[:1])

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        started = cost_of(start)
        engine.generate(requests)  # caches fill and kernels are chosen
        say(start=asdict(started))
        for number, _ in enumerate(sys.stdin, start=1):
            say(**_round(engine, policy, requests, version=number))
    finally:
        engine.close()


def _round(engine: Any, policy: Any, requests: list[Any], *, version: int) -> dict[str, Any]:
    """Weights to the engine, then one draw of everything."""
    drawn: list[Any] = []
    sync = cost_of(lambda: engine.load(policy, version=version))
    draw = cost_of(lambda: drawn.extend(engine.generate(requests)))
    tokens = sum(len(rollout.completion_ids) for rollout in drawn)
    return {"sync": asdict(sync), "draw": asdict(draw), "tokens": tokens}


def _prepare(asked: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
    """The engine, not started, the policy and the requests."""
    import torch

    from tokensweep.compose import register_components
    from tokensweep.models.policy import Policy
    from tokensweep.models.prompts import encode_prompt
    from tokensweep.registry import KIND, build
    from tokensweep.rollout import Request, SamplingSpec

    torch.set_num_threads(1)
    register_components()
    policy = Policy(Path(asked["model"]))
    sampling = SamplingSpec(max_tokens=asked["new_tokens"])
    prompts = [encode_prompt(policy.tokenizer, text, chat=False) for text in asked["prompts"]]
    requests = [
        Request(prompt_ids=ids, seed=seed, sampling=sampling)
        for seed, ids in enumerate(ids for ids in prompts for _ in range(asked["samples"]))
    ]
    return build({KIND: f"rollout/{asked['engine']}"}), policy, requests


if __name__ == "__main__":
    main(*sys.argv[1:])
