"""A finished sweep on disk, as workers leave it behind, without training: for benchmarks of what reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokensweep.files import write_json
from tokensweep.identity import digest
from tokensweep.train.metrics import DENOMINATORS
from tokensweep_analysis.samples import SCHEMA

NAME = "bench"
SEEDS = 5
_SPACE = 1000  # answers are 0 .. 999, as in AIME
_TIE_BREAKER = 2654435761  # spreads neighbouring numbers: Knuth's multiplicative hash
_SILENT, _ERRED, _TRUNCATED = 0.02, 0.002, 0.06  # shares of samples that are not correct
_ZIPF = 1.6  # wrong answers: the most frequent one has about a third of the wrong votes
_STRINGS = pa.array([str(number) for number in range(_SPACE)])
_TEXTS = pa.array([f"<think>short</think> The answer is \\boxed{{{n}}}." for n in range(_SPACE)])


def write_sweep(
    store: Path, *, runs: int, benchmarks: int, questions: int, samples: int, steps: int, k: tuple[int, ...]
) -> None:
    """``runs`` finished runs of ``runs / 5`` arms, five seeds each, all of them evaluated on every benchmark.

    Every arm is a little better than the one before; questions differ as those of a competition do, from
    nearly always to never solved. Files are what the writers of tokensweep write, but each in one go.
    """
    rng = np.random.default_rng(0)
    difficulty = rng.beta(0.5, 0.7, (benchmarks, questions))
    entries = []
    for number in range(runs):
        arm, seed = divmod(number, SEEDS)
        run_id = f"{number:08x}-{number * _TIE_BREAKER % 2**32:08x}"
        evals = [_planned(f"suite{suite}", run_id, samples, k) for suite in range(benchmarks)]
        _write_folder(store / "runs" / run_id, evals, steps=steps, rng=rng)
        for suite, entry in enumerate(evals):
            odds = difficulty[suite] / (1 - difficulty[suite]) * np.exp(arm / runs + rng.normal(0, 0.2))
            table = _samples(entry, run_id, seed, odds / (1 + odds), samples, rng=rng)
            path = store / "runs" / run_id / "evals" / f"{entry['suite']}-{entry['eval_id']}"
            path.mkdir(parents=True)
            pq.write_table(table, path / "samples-000.parquet", compression="zstd")
        planned = {entry["suite"]: entry["eval_id"] for entry in evals}
        entries.append(
            {"setting": "bench", "arm": f"arm{arm}", "seed": seed, "run_id": run_id, "evals": planned}
        )
    write_json(
        store / "sweeps" / NAME / "sweep.json",
        {"name": NAME, "scale": "bench", "baseline": "arm0", "runs": entries},
    )


def _planned(suite: str, run_id: str, samples: int, k: tuple[int, ...]) -> dict[str, Any]:
    eval_id = digest([suite, run_id])[:8]
    return {
        "suite": suite,
        "eval_id": eval_id,
        "num_samples": samples,
        "k": list(k),
        "tau": [0.5, 0.9],
        "answer_space": _SPACE,
    }


def _write_folder(folder: Path, evals: list[dict[str, Any]], *, steps: int, rng: np.random.Generator) -> None:
    """Plan, frozen config and the ledger of one attempt."""
    write_json(folder / "plan.json", {"run_id": folder.name, "code_sha": "c0de" * 16, "evals": evals})
    method = {"name": "grpo", "paper": "arXiv:2402.03300", "evidence": "paper"}
    write_json(folder / "config.json", {"seed": 0, "compute": {"device": "auto"}, "method": method})
    attempt = folder / "attempts" / "000"
    attempt.mkdir(parents=True)
    noise = rng.random((steps, len(DENOMINATORS)))
    rows = [
        {
            "attempt": 0,
            "step": step,
            "time": 1e9 + step,
            "metrics": dict(zip(DENOMINATORS, noise[step - 1].tolist(), strict=True)),
        }
        for step in range(1, steps + 1)
    ]
    _write_lines(attempt / "metrics.jsonl", rows)
    done: list[dict[str, Any]] = [
        {"kind": "evaluated", **_part(entry, "suite", "eval_id", "num_samples")} for entry in evals
    ]
    events: list[dict[str, Any]] = [
        {"kind": "started"},
        {"kind": "trained", "step": steps},
        *done,
        {"kind": "finished"},
    ]
    timed = [{"time": 1e9 + number, **event, "attempt": 0} for number, event in enumerate(events)]
    _write_lines(attempt / "events.jsonl", timed)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def _part(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: entry[name] for name in names}


def _samples(
    entry: Mapping[str, Any],
    run_id: str,
    seed: int,
    chance: NDArray[np.float64],
    samples: int,
    *,
    rng: np.random.Generator,
) -> pa.Table:
    """Graded samples of all questions; ``chance`` [Q] is what each is answered correctly with."""
    questions = len(chance)
    number = questions * samples
    question = np.repeat(np.arange(questions), samples)
    right = rng.random(number) < chance[question]
    fate = rng.random(number)
    truncated = ~right & (fate < _TRUNCATED)
    silent = ~right & (fate < _TRUNCATED + _SILENT)
    erred = ~right & (fate > 1 - _ERRED)
    answer = question * 31 % _SPACE + np.where(right, 0, rng.zipf(_ZIPF, number) % (_SPACE - 1) + 1)
    answer %= _SPACE
    grades = np.select([right, truncated, silent, erred], [0, 3, 2, 4], default=1)
    names = pa.array([f"{entry['suite']}-{q:03d}" for q in range(questions)])
    prompts = pa.array([f"{q * _TIE_BREAKER % 2**48:012x}" for q in range(questions)])
    same = {
        "run_id": run_id,
        "config_hash": "c0ffee",
        "seed": seed,
        "step": 100,
        "benchmark": entry["suite"],
        "benchmark_revision": "b35b504d1122",
        "decode_hash": "0123456789ab",
        "n_prompt_tokens": 180,
        "extract_rule": "boxed",
        "grader": "math 3",
        "grader_status": "ok",
        "latency_s": 0.25,
    }
    own = {
        "arm": pa.nulls(number, pa.string()),
        "confidence": pa.nulls(number, pa.float64()),  # nothing states one
        "question_id": names.take(question),
        "sample_idx": pa.array(np.tile(np.arange(samples), questions)),
        "sampling_seed": pa.array(rng.integers(0, 2**62, number)),
        "prompt_hash": prompts.take(question),
        "n_output_tokens": pa.array(np.where(truncated, 8192, rng.integers(200, 8000, number))),
        "finish_reason": pa.array(["stop", "length"]).take(truncated.astype(np.int64)),
        "extracted": _STRINGS.take(pa.array(answer, mask=silent)),
        "grade": pa.array(["correct", "wrong", "no_answer", "truncated", "error"]).take(grades),
        "text": _TEXTS.take(answer),
    }
    columns = [
        own[field.name] if field.name in own else pa.array([same[field.name]] * number, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
