"""Engines side by side: what a server costs is counted, ratios have honest intervals, the quick size runs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.rollout import QUICK, available, interval, main, run_work, to_markdown
from benchmarks.rollout_child import cost_of
from benchmarks.tables import README

_ROOT = Path(__file__).parents[2]

# For every line that it reads: 0.3 CPU seconds, and the line back.
_WORKER = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    print(line, end="", flush=True)
"""
_SERVER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_WORKER!r}])"


def test_the_cost_counts_what_a_server_and_its_own_children_do_while_they_live() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        pipe, answers = server.stdin, server.stdout

        def ask() -> None:
            pipe.write("work\n")
            pipe.flush()
            assert answers.readline() == "work\n"

        ask()
        costs = [cost_of(ask) for _ in range(2)]
        pipe.close()
    for cost in costs:
        assert cost.cpu_s == pytest.approx(0.3, abs=0.05)
        assert cost.wall_s > 0.25


def test_the_cost_counts_children_that_end_inside() -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass"
    cost = cost_of(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert cost.cpu_s == pytest.approx(0.3, abs=0.1)  # and the start of Python


def test_sleeping_costs_no_cpu() -> None:
    cost = cost_of(lambda: time.sleep(0.1))
    assert cost.cpu_s < 0.05
    assert cost.wall_s >= 0.1


def test_the_interval_is_a_t_interval_of_logarithms() -> None:
    # log2 of the ratios: 0, 1, 2, so mean 1 and SD 1 in units of log 2 = 0.693147; t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.693147 / math.sqrt(3)
    expected = [2.0, 2 * math.exp(-half), 2 * math.exp(half)]
    assert list(interval([1.0, 2.0, 4.0])) == pytest.approx(expected, rel=1e-6)


def test_one_round_has_no_interval() -> None:
    assert list(interval([3.0])) == pytest.approx([3.0, 0.0, math.inf])


def _told(*rounds: tuple[float, float]) -> list[dict[str, Any]]:
    """An engine that starts in 2 CPU and 5 wall seconds and draws 100 tokens in so many of either."""
    sync = {"cpu_s": 0.0, "wall_s": 0.25}
    draws = [
        {"sync": sync, "draw": {"cpu_s": cpu_s, "wall_s": wall_s}, "tokens": 100} for cpu_s, wall_s in rounds
    ]
    return [{"start": {"cpu_s": 2.0, "wall_s": 5.0}}, *draws]


def test_a_table_has_rates_of_both_clocks_and_ratios_within_rounds() -> None:
    where = {
        "processor": "Abacus",
        "cores": 2,
        "load": 0.5,
        "date": "2026-01-01",
        "python": "3.11",
        "code": "c0de",
        "versions": {"torch": "2"},
    }
    # torch: 100 and 25 tokens per CPU second, geometric mean 50; hf takes half the CPU in both rounds, and a
    # wall clock twice and eight times as long: mean ratio 1/4
    cases = {"tiny": {"torch": _told((1, 1), (4, 4)), "hf": _told((0.5, 2), (2, 32))}}
    text = to_markdown({"where": where, "cases": cases})
    assert "| torch | 50 | - | 50 | - | 250.0 | 2 | 5 | 2 |" in text
    assert "| hf | 100 | 2.00 (2.00 to 2.00) | 12.5 | 0.25 (0.00 to " in text
    assert "Abacus, 2 cores" in text


def test_the_page_has_room_for_the_table() -> None:
    page = README.read_text()
    assert page.count("<!-- rollout:begin -->") == page.count("<!-- rollout:end -->") == 1


def test_an_engine_that_is_not_here_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", "--engines", "torch", "abacus"])
    assert "no engine abacus here: there are torch, hf" in capsys.readouterr().err
    assert set(available()) >= {"torch", "hf"}


@pytest.mark.slow
def test_the_quick_size_measures_every_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rollout", "--quick", "--engines", "torch", "hf"],
        cwd=_ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| torch", "| hf"]
    assert [row[-1] for row in rows[2:]] == ["2 |", "2 |"]


@pytest.mark.slow
def test_an_engine_that_dies_ends_the_benchmark_with_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    (work,) = QUICK
    with pytest.raises(SystemExit, match="the engine abacus ended before it had answered"):
        run_work(replace(work, prompts=work.prompts[:1]), ("abacus",), rounds=1)
    assert "no component 'rollout/abacus'" in capsys.readouterr().err
