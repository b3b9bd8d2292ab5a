"""How far vLLM's log-probabilities are from the trainer's, before and after every weight has been moved.

    python -m benchmarks.parity [--quick] [--models NAME ...] [--dtypes NAME ...]

It is the comparison that a run makes after every weight sync, on its probe of 92 tokens (rollout.vllm.probe):
the trainer computes in float32, vLLM in ``dtype``. A model is any option of the config group ``model``.
``--quick`` proves in a minute that it works, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.__main__ import machine
from benchmarks.tables import README, insert_tables, where_line
from tokensweep.files import write_json

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy
    from tokensweep.rollout.vllm import VllmEngine

_RESULTS = Path(__file__).resolve().parent / "results"
MODELS = ("tiny", "smollm2_135m")
DTYPES = ("float32", "bfloat16")
_QUICK = ("model.hidden=64", "model.layers=1", "model.heads=2", "model.mlp=64", "model.steps=0")  # of tiny
_MOVED = 0.05  # the standard deviation of what is added to a weight, in root mean squares of its tensor


def model_folder(name: str, folder: Path, *, quick: bool) -> Path:
    """The model of a config, written below ``folder``. Raises ValueError for one that can not be had."""
    from tokensweep.compose import freeze_run, register_components
    from tokensweep.registry import build

    register_components()
    frozen = freeze_run([f"model={name}", *(_QUICK if quick else ()), f"store={folder}"])
    written: Path = build(frozen["model"]).materialise(data=build(frozen["data"]), cache=folder)
    return written


def measure(folder: Path, *, dtype: str) -> dict[str, Any]:
    """Differences in nats before and after the move, and what the move itself does to the trainer's tokens.

    Raises EngineError for a server that does not start or does not take the weights.
    """
    from tokensweep.models.policy import Policy
    from tokensweep.rollout.vllm import VllmEngine
    from tokensweep.rollout.vllm.probe import probe_of, trainer_logprobs

    policy = Policy(folder)
    probe = probe_of(policy)
    first = trainer_logprobs(policy, probe)
    with closing(VllmEngine(dtype=dtype, max_num_seqs=8, max_model_len=64, kv_cache_gb=0.2)) as engine:
        before = _gaps(engine, policy, version=0)
        move(policy)
        after = _gaps(engine, policy, version=1)
    moved = (trainer_logprobs(policy, probe) - first).abs()
    return {"tokens": len(first), "before": before, "after": after, "moved": float(moved.mean())}


def _gaps(engine: VllmEngine, policy: Policy, *, version: int) -> dict[str, float | bool]:
    """The engine's differences with these weights, also where a run would stop because of them."""
    from tokensweep.rollout.vllm.errors import ParityError

    with suppress(ParityError):
        engine.load(policy, version=version)
    parity = engine.parity
    assert parity is not None
    return {"max": parity.max_abs, "mean": parity.mean_abs, "holds": parity.holds}


def move(policy: Policy) -> None:
    """Add noise to every weight, of a generator with the seed 0 in the model's order; zeros stay."""
    import torch

    generator = torch.Generator(policy.device).manual_seed(0)
    with torch.no_grad():
        for weight in policy.model.parameters():
            size = _MOVED * weight.square().mean().sqrt()
            weight.add_(size * torch.randn(weight.shape, generator=generator, device=policy.device))


def to_markdown(result: Mapping[str, Any]) -> str:
    """A row per model and number format, and a line on where it was measured."""
    heads = ["model", "vLLM in", "largest before", "mean before", "largest after", "mean after"]
    heads += ["mean change by the move", "tokens", "a run goes on"]
    rows = [
        [
            case["model"],
            case["dtype"],
            *(f"{case[when][kind]:.1e}" for when in ("before", "after") for kind in ("max", "mean")),
            f"{case['moved']:.1e}",
            str(case["tokens"]),
            "yes" if case["before"]["holds"] and case["after"]["holds"] else "**no**",
        ]
        for case in result["cases"]
    ]
    lines = [heads, ["---", "---", *["---:"] * 6, "---"], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{where_line(result['where'])}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 2 for a model that can not be had, 1 when vLLM fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity", description="vLLM's log-probabilities against the trainer's."
    )
    parser.add_argument("--quick", action="store_true", help="an untrained tiny model, printed and not kept")
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="vLLM's; default: both")
    parser.add_argument("--only-tables", action="store_true", help="write the table from the results kept")
    options = parser.parse_args(arguments)
    if options.quick and options.models:
        parser.error("--quick has a model of its own: leave --models out")
    kept = _RESULTS / "parity.json"
    result = json.loads(kept.read_text()) if options.only_tables else _run(parser, options)
    print(to_markdown(result))
    if not options.quick:
        write_json(kept, result)
        insert_tables(README, {"parity": to_markdown(result)}, block="parity")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """The result of all models and formats."""
    from tokensweep.rollout.vllm.installed import check_installed

    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("tiny",) if options.quick else dict.fromkeys(options.models or MODELS):
            try:
                build = check_installed(cuda=False)
                folder = model_folder(name, Path(scratch), quick=options.quick)
            except ValueError as error:
                parser.error(str(error))
            for dtype in dict.fromkeys(options.dtypes):
                print(f"{name}: vLLM in {dtype}", file=sys.stderr, flush=True)
                cases.append({"model": name, "dtype": dtype, **measure(folder, dtype=dtype)})
    where = machine()
    distribution, _, number = build.partition(" ")
    kept = {library: where["versions"][library] for library in ("torch", "transformers")}
    return {"cases": cases, "where": {**where, "versions": {**kept, distribution: number}}}


if __name__ == "__main__":
    main()
