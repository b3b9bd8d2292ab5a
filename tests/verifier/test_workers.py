"""Worker processes: limits, replacement, callers of every kind, and nothing left behind."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tokensweep.verifier import Verdict, Verifier, Workers
from tokensweep.verifier.pool import Question

_SQUARE = Question("equal", "x^2-1", "(x-1)(x+1)")
_SLOW = Question("equal", "5", r"(x+y+z+1)^{900} - (x+y+z)^{900}")
_BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "verifier.py"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def run_script(*command: str, script: str | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, *command],
        input=script,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_workers_start_when_first_needed_and_close_leaves_none_behind() -> None:
    before = children()
    with Workers(2, cpu_limit_s=0.3) as workers:
        assert workers.pids() == []
        assert workers.ask([_SQUARE]) == [Verdict(True)]
        pids = workers.pids()
        assert len(pids) == 1  # one question takes one worker
        workers.ask([_SLOW] * 2)
    assert workers.pids() == []
    assert not any(is_running(pid) for pid in pids)
    assert children() == before


@pytest.mark.parametrize("limit_s", [1, 0.25])
def test_processor_time_is_limited_by_whole_and_fractional_seconds(limit_s: float) -> None:
    with Workers(1, cpu_limit_s=limit_s) as workers:
        assert workers.ask([_SQUARE, _SLOW, _SQUARE]) == [
            Verdict(True),
            Verdict(None, "timeout"),
            Verdict(True),
        ]


def test_the_wall_clock_is_a_backstop() -> None:
    with Workers(1, wall_limit_s=0.3, cpu_limit_s=60) as workers:
        workers.ask([_SQUARE])
        assert workers.ask([_SLOW]) == [Verdict(None, "timeout")]
        assert workers.pids() == []


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="limits must be positive"):
        Workers(1, cpu_limit_s=0)


def test_a_worker_that_was_killed_is_replaced_and_its_pair_compared() -> None:
    with Workers(1) as workers:
        workers.ask([_SQUARE])
        (pid,) = workers.pids()
        os.kill(pid, signal.SIGKILL)
        assert workers.ask([_SQUARE]) == [Verdict(True)]
        assert workers.pids() != [pid]


def test_a_worker_that_is_killed_at_work_is_replaced_and_asked_again() -> None:
    with Workers(1, cpu_limit_s=0.5) as workers:
        workers.ask([_SQUARE])
        (pid,) = workers.pids()
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
        assert workers.ask([_SLOW, _SQUARE]) == [Verdict(None, "timeout"), Verdict(True)]
        assert workers.pids() != [pid]


def test_a_worker_that_is_killed_while_it_starts_is_started_once_more() -> None:
    with Workers(1) as workers:
        killed: list[int] = []

        def kill_the_first() -> None:
            while not workers.pids():
                time.sleep(0.005)
            killed.extend(workers.pids())
            os.kill(killed[0], signal.SIGKILL)  # it takes longer than that to import SymPy

        killer = threading.Thread(target=kill_the_first)
        killer.start()
        assert workers.ask([_SQUARE]) == [Verdict(True)]
        killer.join()
        assert workers.pids() != killed


def test_a_worker_that_never_starts_is_an_error_that_says_how_to_see_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokensweep.verifier.pool._COMMAND", ("false",))
    with Workers(1) as workers, pytest.raises(RuntimeError, match="does not start: run false, which should"):
        workers.ask([_SQUARE])
    assert workers.pids() == []


def test_what_exhausts_the_memory_is_reported_as_such() -> None:
    script = """
import resource
from tokensweep.verifier.worker import in_fork

def greedy(gold, answer):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return bool(bytearray(2 << 30))

print(in_fork(greedy, "", "", seconds=5))
"""
    assert run_script("-c", script) == "(None, 'memory')"


def test_the_callers_timer_and_handler_survive() -> None:
    heard = []

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        with Verifier(Workers(1, cpu_limit_s=0.3)) as verifier:
            verifier.compare([(_SQUARE.gold, _SQUARE.answer), (_SLOW.gold, _SLOW.answer)])
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
        assert signal.getsignal(signal.SIGALRM) is handler
        assert heard == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_question_leaves_no_reply_for_the_next_one() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("typed by the user")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Workers(1) as workers:
            workers.ask([_SQUARE])
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt, match="typed by the user"):
                workers.ask([_SLOW, _SLOW])
            assert workers.ask([_SQUARE]) == [Verdict(True)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_ends_all_workers_at_once_and_is_raised_without_what_it_interrupted() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("typed by the user")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Workers(2, cpu_limit_s=20) as workers:
            workers.ask([_SQUARE, _SQUARE])
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt, match="typed by the user") as interrupted:
                workers.ask([_SLOW] * 6)
            assert time.monotonic() - start < 5  # each of the six takes 20 s
            assert [entry.name for entry in interrupted.traceback][1:] == ["ask"]
            assert workers.pids() == []
            assert workers.ask([_SQUARE]) == [Verdict(True)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_several_threads_can_compare_at_once() -> None:
    verdicts: dict[int, list[Verdict]] = {}
    with Verifier(Workers(2)) as verifier:

        def compare(number: int) -> None:
            verdicts[number] = verifier.compare([(f"{number}x", f"x+{number - 1}x"), ("x", f"x+{number}")])

        threads = [threading.Thread(target=compare, args=(number,)) for number in range(3, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(verdicts.values()) == [[Verdict(True), Verdict(False)]] * 4


_CALL = """
from tokensweep.verifier import verifier
print(verifier().compare([("x^2-1", "(x-1)(x+1)")])[0].equal, *verifier()._workers.pids())
"""


@pytest.mark.parametrize("way", ["command", "input", "file"])
def test_a_script_needs_no_guard_and_its_workers_end_with_it(way: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_CALL)
    command = {"command": ["-c", _CALL], "input": ["-"], "file": [str(tmp_path / "script.py")]}[way]
    equal, pid = run_script(*command, script=_CALL if way == "input" else None).split()
    assert equal == "True"
    assert not is_running(int(pid))


def test_workers_do_not_outlive_a_process_that_is_killed() -> None:
    script = f"{_CALL}\nimport os, signal, sys\nsys.stdout.flush()\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_script("-c", script)
    pid = int(failed.value.stdout.split()[1])
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_fork_gets_workers_of_its_own() -> None:
    script = f"""{_CALL}
import os, sys
sys.stdout.flush()
if os.fork() == 0:
    print(verifier().compare([("2x", "x+x")])[0].equal, flush=True)
    sys.exit()
os.wait()
print(verifier().compare([("3x", "x+2x")])[0].equal, *verifier()._workers.pids())
"""
    first, second, third = run_script("-c", script).splitlines()
    assert second == "True"
    assert third == first  # same worker, still alive


def test_a_worker_imports_neither_torch_nor_hydra() -> None:
    modules = "('torch', 'hydra', 'omegaconf', 'pandas', 'transformers')"
    script = (
        "import sys, tokensweep.verifier.worker, tokensweep.verifier.compare\n"
        f"print([name for name in {modules} if name in sys.modules])"
    )
    assert run_script("-c", script) == "[]"


@pytest.mark.slow
def test_a_batch_with_bombs_is_graded_right_and_leaves_no_process() -> None:
    benchmark: dict[str, Any] = runpy.run_path(str(_BENCHMARK))
    pairs = benchmark["workload"]()
    assert len(pairs) == 1500
    assert sum(expected is None for *_, expected in pairs) == 17
    before = children()
    with Verifier() as verifier:
        verdicts = verifier.compare([(gold, answer) for gold, answer, _ in pairs])
    wrong = [
        pair
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if not benchmark["is_right"](pair[2], verdict)
    ]
    assert wrong == []
    assert children() == before
