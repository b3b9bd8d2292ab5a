"""Runs one planned run from nothing but its folder: ``python -m tokensweep.worker RUN_DIR [STAGE]``.

Everything a worker needs lies in the folder and everything it does is written there, so it can be started by
a terminal, a process pool or a cluster's queue, die at any moment, and be started again: it goes on where the
last attempt was.

Several processes train one run together where torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT) say so. Rank 0 keeps ledger and log, and evaluates alone: the others leave.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensweep.ledger import Attempt, Kind, read_run
from tokensweep.redact import RedactedText, redact, redact_error

if TYPE_CHECKING:  # importing torch takes a second
    from tokensweep.train.ranks import Place, Ranks

PREEMPTED = 75  # exit code of a worker that was asked to stop and can be continued: EX_TEMPFAIL
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # what a scheduler sends before it takes the machine away


class Failure(StrEnum):
    """Why an attempt failed, as far as it decides what to do next."""

    oom = "oom"  # smaller batch.micro_tokens, or a larger machine
    nan = "nan"  # a property of the arm: trying again gives the same
    bad_config = "bad_config"
    disk = "disk"  # make room, then again
    data = "data"
    other = "other"
    # What a worker cannot say of itself, seen from outside:
    killed = "killed"  # ended by a signal without a word: usually the machine was out of memory
    hang = "hang"  # alive without progress
    unfinished = "unfinished"  # left with exit code 0 before its work was done
    timeout = "timeout"  # a whole time limit without a checkpoint
    node = "node"  # the machine failed
    submission = "submission"  # never came to start
    lost = "lost"  # the cluster knows nothing of its job


class Stage(StrEnum):
    """The part of a run that a worker does."""

    train = "train"
    evaluate = "evaluate"
    all = "all"


@dataclass(frozen=True)
class RunJob:
    """Trains and evaluates the run in ``run_dir`` as far as that is not done. A path only, so it pickles."""

    run_dir: Path
    stage: Stage = Stage.all

    def __call__(
        self, should_stop: Callable[[], bool] = lambda: False, environ: Mapping[str, str] | None = None
    ) -> None:
        """Work until the stage is complete, as the rank that torchrun's variables in ``environ`` name.

        The attempt's ledger says how it ended and its log holds every word of output. Raises what went
        wrong, PreemptedError when ``should_stop`` said so, and RuntimeError when another process works on
        the run.
        """
        from tokensweep.train.ranks import Place, joined
        from tokensweep.train.trainer import PreemptedError

        place = Place.of(environ or {})
        if place.rank:
            self._follow(place, should_stop)
            return
        with Attempt.open(self.run_dir, devices=place.size) as attempt, _output_to(attempt.log):
            try:
                with joined(place, name=self.run_dir.name) as ranks:
                    rest = _work(self.run_dir, attempt, self.stage, should_stop=should_stop, ranks=ranks)
            except (KeyboardInterrupt, PreemptedError) as stop:
                attempt.event(Kind.preempted)
                print(f"stopped: {stop}")
                raise
            except Exception as error:
                redact_error(error)
                _record(attempt, error, self.run_dir, ranks=place.size)  # first: the log may be lost
                traceback.print_exc()
                raise
            attempt.event(Kind.finished, **({"stage": self.stage.value} if rest else {}))

    def _follow(self, place: Place, should_stop: Callable[[], bool]) -> None:
        """Train with rank 0, which says how it ended; raises what went wrong, with a traceback on stderr."""
        from tokensweep.train.ranks import joined
        from tokensweep.train.trainer import PreemptedError

        try:
            with joined(place, name=self.run_dir.name) as ranks:
                _work(self.run_dir, None, self.stage, should_stop=should_stop, ranks=ranks)
        except PreemptedError:
            return  # a bad exit would make srun end rank 0 before it has said so
        except Exception:
            traceback.print_exc()
            raise


def _work(
    run_dir: Path, attempt: Attempt | None, stage: Stage, *, should_stop: Callable[[], bool], ranks: Ranks
) -> bool:
    """Check the folder, train, evaluate; gives back whether something is left for another stage."""
    from transformers.utils import logging

    from tokensweep.compose import register_components
    from tokensweep.identity import read_json, verify, verify_code
    from tokensweep.train.trainer import PreemptedError, run_training

    logging.disable_progress_bar()  # of loading and saving, which nobody reads in a log
    with ranks.agreed():
        config = verify(run_dir)
        register_components()
        record = read_run(run_dir)
    cache = run_dir.resolve().parents[1] / "models"  # <store>/runs/<id> lies beside <store>/models
    if ranks.first(record.trained_step is None):
        if stage is Stage.evaluate:
            raise ValueError(
                f"{run_dir.name} must be trained before it is evaluated: its training did not end"
            )
        with ranks.agreed():
            verify_code(run_dir)
        run_training(config, run_dir, attempt, cache=cache, should_stop=should_stop, ranks=ranks)
    if attempt is None:
        return False
    plan = read_json(run_dir / "plan.json")
    missing = record.missing(plan["evals"])
    if missing and stage is not Stage.train:
        if should_stop():
            raise PreemptedError("asked to stop before the evaluation")
        _evaluate_all(run_dir, attempt, config, plan, missing, should_stop=should_stop)
    return bool(missing) and stage is Stage.train


def _evaluate_all(
    run_dir: Path,
    attempt: Attempt,
    config: Mapping[str, Any],
    plan: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    *,
    should_stop: Callable[[], bool],
) -> None:
    """Draw and grade what is missing of these evaluations; the model is loaded once.

    Raises PreemptedError between two shards of samples when ``should_stop`` says so.
    """
    import torch

    from tokensweep.evaluate import EvalSpec, Subject, announce_rules, evaluate
    from tokensweep.models.policy import Policy
    from tokensweep.models.prompts import prompt_of
    from tokensweep.registry import build
    from tokensweep.train.setup import check_source, device_of, encoder, fitting_problems, prepare_torch
    from tokensweep.train.trainer import PreemptedError

    def between() -> None:
        if should_stop():
            raise PreemptedError("asked to stop in the middle of an evaluation")

    prepare_torch(config["compute"])
    folder = trained_folder(run_dir, step=config["steps"])
    dtype = getattr(torch, config["compute"]["dtype"])
    policy = Policy(folder, dtype=dtype, device=device_of(config["compute"]["device"]))
    prompt = prompt_of(config)
    encode = encoder(prompt, policy, chat=build(config["model"]).chat)
    subject = Subject(run_id=plan["run_id"], config_hash=plan["config_sha"][:12], seed=config["seed"])
    with closing(build(config["rollout"])) as engine:
        announce_rules(entries, engine)
        engine.load(policy, version=config["steps"])
        for entry in entries:
            source = build(entry["source"])
            check_source(source)
            spec = EvalSpec.of(entry, engine=config["rollout"])
            summary = evaluate(
                policy,
                engine,
                source,
                spec,
                out_dir=run_dir / "evals" / spec.folder_name,
                subject=subject,
                encode=encode,
                indices=fitting_problems(prompt, source, encode),
                between=between,
            )
            print(
                f"{spec.suite}: avg@{summary.num_samples} {summary.avg:.4f} over {summary.problems} problems"
            )
            attempt.event(
                Kind.evaluated, suite=spec.suite, eval_id=spec.eval_id, num_samples=spec.num_samples
            )


def trained_folder(run_dir: Path, *, step: int) -> Path:
    """The checkpoint of the last step. Raises ValueError when a trained run has lost it."""
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    if not (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} is missing although the run is trained: remove {run_dir} and run it again"
        )
    return folder


def classify(error: BaseException) -> Failure:
    """The class of a failure. Errors of the operating system count by their number, others by their type."""
    import torch

    from tokensweep.rollout.vllm.errors import EngineMemoryError
    from tokensweep.train.setup import DataError
    from tokensweep.train.update import NonFiniteError

    if isinstance(
        error, MemoryError | torch.OutOfMemoryError | EngineMemoryError
    ) or "can't allocate memory" in str(error):
        return Failure.oom
    if isinstance(error, NonFiniteError):
        return Failure.nan
    if isinstance(error, DataError):
        return Failure.data
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return Failure.disk
    if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
        return Failure.disk  # safetensors writes below Python, and its errors have no number
    return Failure.bad_config if isinstance(error, ValueError) else Failure.other


def _record(attempt: Attempt, error: BaseException, run_dir: Path, *, ranks: int) -> None:
    """Write why the attempt failed into its ledger, also when the disk is full."""
    from tokensweep.rollout.vllm.errors import EngineMemoryError

    kind, text = classify(error), str(error) or repr(error)
    if kind is Failure.oom and not isinstance(error, EngineMemoryError):  # the engine says itself what to do
        from tokensweep.memory.shortage import explain_shortage

        text = explain_shortage(error, run_dir, ranks=ranks)
        print(text)
    try:
        attempt.event(Kind.failed, error=text, **{"class": kind.value})
    except OSError:
        attempt.failed(error)  # gives its reserved space back first


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send everything that is printed, by Python or below it, to the end of a file.

    Secrets of the environment are taken out of what Python prints, not of what native code prints below it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with RedactedText(log.open("ab")) as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def start_worker(
    run_dir: Path,
    *,
    threads: int,
    stage: Stage = Stage.all,
    environment: Mapping[str, str] | None = None,
    output: int | None = subprocess.DEVNULL,
    bound: bool = False,
) -> subprocess.Popen[bytes]:
    """Start the worker of a run folder, detached: it lives on if this process or its terminal ends.

    It writes its own log; ``output`` is for what it says before it has one (None: as this process). It trains
    alone unless ``environment`` makes it a rank. ``bound`` ends it with this process, whose job would
    otherwise be over while its worker still computes.
    """
    sizes = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}  # read when torch is loaded
    return subprocess.Popen(
        [sys.executable, "-m", "tokensweep.worker", str(run_dir), stage.value],
        env={**os.environ, **sizes, "WORLD_SIZE": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_end_with_parent if bound else None,
    )


def _end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Do a stage of a run; leaves with 1 when it failed, with ``PREEMPTED`` when it was asked to stop."""
    parser = argparse.ArgumentParser(prog="python -m tokensweep.worker", description=main.__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("stage", nargs="?", type=Stage, default=Stage.all, choices=list(Stage))
    options = parser.parse_args()
    asked: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda received, _: asked.append(received))

    from tokensweep.train.trainer import PreemptedError

    try:
        RunJob(options.run_dir, options.stage)(should_stop=lambda: bool(asked), environ=os.environ)
    except PreemptedError:
        raise SystemExit(PREEMPTED) from None
    except Exception as error:  # noqa: BLE001  the log has the traceback; here one line is enough
        print(f"tokensweep.worker: {type(error).__name__}: {redact(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
