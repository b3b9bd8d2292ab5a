"""The ``tokensweep`` command. Heavy imports happen in the subcommand that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from tokensweep.sweepfile import Sweep

_USAGE = """\
tokensweep trains token-level RLVR methods in one trainer and compares them.

  tokensweep train [-m] KEY=VALUE ...         one run; with -m and commas a grid of runs (Hydra multirun)
  tokensweep sweep NAME|FILE [KEY=VALUE ...]  a sweep file: arms x seeds, ends with the comparison table
  tokensweep train -m hydra/sweeper=optuna_pull KEY='interval(LOW,HIGH)' ...   Optuna chooses the values
  tokensweep plan NAME|FILE|train ...         what would run, without running it
  tokensweep confirm SEARCH [--top 3]         the best arms of a search on fresh seeds and questions: verdicts
  tokensweep evaluate run=ID|model=NAME ...   sample and grade a benchmark without training
  tokensweep status [SWEEP] [--follow]        what is finished, runs, waits, failed and why
  tokensweep logs RUN [--follow]              the log of a run
  tokensweep cancel SWEEP [RUN ...]           take its jobs out of a cluster's queue; checkpoints stay
  tokensweep retry SWEEP                      submit again what failed, was cancelled or got lost
  tokensweep report SWEEP                     tables, contrasts and verdicts again, and report.html with plots
  tokensweep dashboard SWEEP [--port N]       the trials of a search in optuna-dashboard, also while it runs
  tokensweep audit FILE.csv [--beside SWEEP]  what a published table of results can support
  tokensweep analyse tokens RUN               which tokens a run trained, their entropy, and how both moved
  tokensweep regrade SWEEP                    grade stored answers again, without a model; then the table
  tokensweep methods [NAME]                   the method presets, or what fills the slots of one
  tokensweep data list|fetch|check            problem sets: what there is, download, check files
  tokensweep sync [SWEEP ...] [--all]         project run folders to MLflow (rebuilds a lost database)
  tokensweep gc [SWEEP ...] [--delete]        what is not needed any more and how large it is
  tokensweep doctor [site=NAME]               is everything here that runs need, and if not, what to do

Each has its own --help. Start with:
  tokensweep sweep forking_tokens scale=tiny
  tokensweep train -m method=forking_tokens method.token_weights.entropy.fraction=0.2,0.8 seed=0,1

On a cluster (slurm/README.md): add hydra/launcher=slurm site=NAME, and wait=true to stay.

Runs live in one store: $TOKENSWEEP_HOME, or ~/tokensweep; store=FOLDER overrides.
Shell completion: eval "$(tokensweep -sc install=bash)"
"""

_HYDRA_COMMANDS = ("train", "evaluate")
_STEERING = ("status", "logs", "cancel", "retry")
_CARE = ("methods", "data", "sync", "gc", "doctor")
_READING = ("report", "dashboard", "regrade", "audit", "analyse")
_COMMANDS = (*_HYDRA_COMMANDS, "sweep", "plan", "confirm", *_READING, *_STEERING, *_CARE)


def main() -> None:
    """Entry point: the first word is the subcommand, the rest is its own."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        _complete(arguments)
        return
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "train": _hydra_app,
        "evaluate": _hydra_app,
        "sweep": _sweep,
        "plan": _plan,
        "confirm": _confirm,
        "report": _report,
        "dashboard": _dashboard,
        "regrade": _regrade,
        "audit": _audit,
        "analyse": _analyse,
        "status": _status,
        "logs": _logs,
        "cancel": _cancel,
        "retry": _retry,
        "methods": _methods,
        "data": _data,
        "sync": _sync,
        "gc": _gc,
        "doctor": _doctor,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if arguments[0] == "--version":
        from tokensweep import __version__

        print(__version__)
        return
    if arguments[0] not in commands:
        _fail(f"no subcommand {arguments[0]!r}: known are {', '.join(commands)}")
    try:
        commands[arguments[0]](arguments)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("\ntokensweep: interrupted; what was computed or submitted stays", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, yaml.YAMLError) as error:
        if os.environ.get("TOKENSWEEP_TRACEBACK"):
            raise
        _fail(_told(error))
    except RuntimeError as error:
        from tokensweep.rollout.vllm.errors import EngineError  # whoever raised it has imported torch

        if not isinstance(error, EngineError) or os.environ.get("TOKENSWEEP_TRACEBACK"):
            raise
        _fail(str(error))


def _told(error: Exception) -> str:
    """An error for people: a YAML error in one line, an OSError without its number."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _fail(message: str) -> None:
    from tokensweep.redact import redact

    print(f"tokensweep: error: {redact(message)}", file=sys.stderr)
    raise SystemExit(2)


def _hydra_app(arguments: Sequence[str]) -> None:
    """Hand over to Hydra, which reads ``sys.argv`` itself."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tokensweep.compose import check_presets, explain, register_components
    from tokensweep.paths import conf_dir

    name = arguments[0]
    register_components()
    if name == "train":
        check_presets([text for text in arguments[1:] if "=" in text and not text.startswith("-")])
    sys.argv = [f"tokensweep {name}", *arguments[1:]]

    evaluations: list[tuple[DictConfig, list[str]]] = []

    def task(config: DictConfig) -> None:
        # Training goes through the launcher: only an evaluation comes here, and runs when Hydra is done,
        # which would put a line of its own before every error.
        evaluations.append((config, list(HydraConfig.get().overrides.task)))

    full_error = os.environ.setdefault("HYDRA_FULL_ERROR", "0") != "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, main() explains
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        if full_error:
            raise
        raise ValueError(explain(error, command=name, overrides=arguments[1:])) from error
    for config, overrides in evaluations:
        _evaluate(config, overrides)


def _evaluate(config: DictConfig, overrides: Sequence[str]) -> None:
    from rich.console import Console

    from tokensweep.compose import resolve
    from tokensweep.evaluation_job import evaluate_subject

    evaluate_subject(resolve(config), overrides=overrides, console=Console())


def _complete(arguments: Sequence[str]) -> None:
    """Hydra's completion with the subcommand taken out of the line that is completed."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if len(words) > 1 and words[1] in _HYDRA_COMMANDS:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", len(line))) - len(words[1]) - 1)
        _hydra_app([words[1], *arguments])
    elif any("query" in argument for argument in arguments):
        print(" ".join(name for name in _COMMANDS if name.startswith(words[-1])))
    else:
        _hydra_app(["train", *arguments])


def _sweep(arguments: Sequence[str]) -> None:
    from tokensweep.options import load_chosen, split_launcher, sweep_parser
    from tokensweep.orchestrate import run_sweep
    from tokensweep.search.read import load_search

    options = sweep_parser("sweep").parse_args(arguments[1:])
    launcher, overrides = split_launcher(options.overrides)
    if (given := load_search(options.name, overrides)) is not None:
        from tokensweep.search.launch import run_search

        run_search(given.search, launcher=launcher, launch=given.launch)
        return
    run_sweep(load_chosen(options.name, overrides), launcher=launcher)


def _plan(arguments: Sequence[str]) -> None:
    from rich.console import Console

    from tokensweep.options import load_chosen, split_launcher, sweep_parser
    from tokensweep.orchestrate import dry_run
    from tokensweep.search.read import load_search, search_of_arguments

    options = sweep_parser("plan").parse_args([a for a in arguments[1:] if a not in ("-m", "--multirun")])
    launcher, overrides = split_launcher(options.overrides)
    is_train = options.name == "train"
    given = search_of_arguments(overrides) if is_train else load_search(options.name, overrides)
    if given is not None:
        from tokensweep.search.launch import dry_run_search

        dry_run_search(given.search, launcher=launcher, launch=given.launch)
        return
    if not is_train:
        dry_run(load_chosen(options.name, overrides), launcher=launcher)
        return
    from tokensweep.memory.command import plan_memory
    from tokensweep.memory.device import split_words

    words, overrides = split_words(overrides)
    sweep = _multirun(overrides)
    plan_memory(sweep.jobs, words=words, console=Console())
    elsewhere = words or any(text.startswith("site=") for text in overrides)
    if launcher != "local" or not elsewhere:  # else only memory and time were asked for
        dry_run(sweep, launcher=launcher)


def _confirm(arguments: Sequence[str]) -> None:
    from tokensweep.search.confirm import confirm_command

    confirm_command(arguments[1:])


def _report(arguments: Sequence[str]) -> None:
    from rich.console import Console

    from tokensweep.options import known_sweep, with_store
    from tokensweep.orchestrate import show_report

    parser = argparse.ArgumentParser(
        prog="tokensweep report",
        description="Print tables, contrasts and verdicts of a sweep from what its run folders hold now, and "
        "write report.html, report.md, ranking.csv, contrasts.csv and claims.csv into its folder. "
        "docs/verdicts.md says how verdicts are made.",
    )
    parser.add_argument("sweep", help="name of the sweep (a folder in <store>/sweeps)")
    parser.add_argument(
        "--baseline",
        metavar="ARM",
        help="compare with this arm; written to report/against-ARM beside the rest",
    )
    options, store, uri = with_store(parser, arguments[1:])
    show_report(
        store,
        known_sweep(store, options.sweep),
        tracking_uri=uri,
        console=Console(),
        baseline=options.baseline,
    )


def _dashboard(arguments: Sequence[str]) -> None:
    from tokensweep.paths import storage_uri
    from tokensweep.search.dashboard import dashboard_command

    dashboard_command(arguments[1:], uri=storage_uri())


def _regrade(arguments: Sequence[str]) -> None:
    from rich.console import Console

    from tokensweep.options import known_sweep, with_store
    from tokensweep.orchestrate import regrade_sweep, show_report

    parser = argparse.ArgumentParser(
        prog="tokensweep regrade",
        description="Grade the stored answers of a sweep with today's graders, then print the table.",
    )
    parser.add_argument("sweep", help="name of the sweep (a folder in <store>/sweeps)")
    options, store, uri = with_store(parser, arguments[1:])
    name = known_sweep(store, options.sweep)
    regrade_sweep(store, name, console=Console())
    show_report(store, name, tracking_uri=uri, console=Console())


def _audit(arguments: Sequence[str]) -> None:
    from tokensweep.audit import audit_command

    audit_command(arguments[1:])


def _analyse(arguments: Sequence[str]) -> None:
    from tokensweep.analyse import analyse_command

    analyse_command(arguments[1:])


def _status(arguments: Sequence[str]) -> None:
    from tokensweep.cluster.command import status_command

    status_command(arguments[1:])


def _logs(arguments: Sequence[str]) -> None:
    from tokensweep.cluster.command import logs_command

    logs_command(arguments[1:])


def _cancel(arguments: Sequence[str]) -> None:
    from tokensweep.cluster.command import cancel_command

    cancel_command(arguments[1:])


def _retry(arguments: Sequence[str]) -> None:
    from tokensweep.cluster.command import retry_command

    retry_command(arguments[1:])


def _methods(arguments: Sequence[str]) -> None:
    from tokensweep.describe import methods_command

    methods_command(arguments[1:])


def _data(arguments: Sequence[str]) -> None:
    from tokensweep.data.command import data_command

    data_command(arguments[1:])


def _sync(arguments: Sequence[str]) -> None:
    from tokensweep.options import known_sweep, with_store
    from tokensweep.sync import check_uri, sync_all, sync_sweep

    parser = argparse.ArgumentParser(
        prog="tokensweep sync",
        description="Project run folders to MLflow; safe to repeat, rebuilds a lost database.",
    )
    parser.add_argument("sweeps", nargs="*", help="names of sweeps")
    parser.add_argument("--all", action="store_true", help="every run of the store")
    options, store, uri = with_store(parser, arguments[1:])
    if not options.sweeps and not options.all:
        parser.error("name a sweep, or give --all")
    check_uri(uri)
    reports = [sync_all(store, uri=uri)] if options.all else []
    reports += [sync_sweep(store, known_sweep(store, name), uri=uri) for name in options.sweeps]
    for report in reports:
        print(report)
    if any(report.delayed for report in reports):
        raise SystemExit(1)


def _gc(arguments: Sequence[str]) -> None:
    from tokensweep.gc import gc_command

    gc_command(arguments[1:])


def _doctor(arguments: Sequence[str]) -> None:
    from tokensweep.doctor.command import doctor_command

    doctor_command(arguments[1:])


def _multirun(overrides: Sequence[str]) -> Sweep:
    """The sweep that ``tokensweep train -m`` would make of these overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tokensweep.compose import explain, register_components
    from tokensweep.composer import compose_config, parse
    from tokensweep.orchestrate import multirun

    register_components()
    try:
        jobs = BasicSweeper.split_arguments(parse(overrides), None)[0]
        base = compose_config(jobs[0])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, command="train", overrides=overrides)) from error
    return multirun(jobs, name=base.sweep, scale=base.scale)


if __name__ == "__main__":
    main()
