"""``tokensweep evaluate``: the evaluation of a trained run or of a model as it is, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import Progress, TaskID
from rich.text import Text

from tokensweep.compose import Frozen, check_eval_rule
from tokensweep.identity import digest, read_json, verify
from tokensweep.names import check_name
from tokensweep.plan import Contents, plan_evals
from tokensweep.preflight import check_engine, overlap_remark
from tokensweep.registry import KIND, build
from tokensweep.store import make_store
from tokensweep_analysis.layout import Cell, Column, FittedTable


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is evaluated, and where its samples go."""

    name: str
    folder: Path  # a Hugging Face folder
    evals: Path
    step: int | None
    seed: int | None
    chat: bool
    config_hash: str
    training: Mapping[str, Any] | None = None  # config node of the data it was trained on


def evaluate_subject(config: Frozen, *, overrides: Sequence[str], console: Console) -> None:
    """Sample and grade what is missing of every suite, print one table, keep the samples as Parquet.

    ``config`` is a frozen ``evaluate`` config, ``overrides`` what was typed: with ``run=ID`` alone the
    suites are those of the run, changed by what was typed. Raises ValueError for neither or both of run
    and model, an unknown or untrained run, and problems that cannot be read.
    """
    if (config["run"] is None) == (config["model"] is None):
        raise ValueError("say what to evaluate: either run=ID or model=NAME")
    check_engine(config)
    contents = Contents()
    subject = _run_subject(config, overrides) if config["run"] else _model_subject(config, contents, console)
    check_eval_rule(config)  # again: a run's own settings are among them now
    entries = plan_evals(config, subject=subject.name, step=subject.step, source_of=contents.source)
    if not entries:
        raise ValueError(
            "nothing to evaluate: name a suite with eval=NAME (tokensweep evaluate --help lists them)"
        )
    summaries = _evaluate_all(config, subject, entries, console)
    console.print(_table(subject, entries, summaries))
    for entry, summary in zip(entries, summaries, strict=True):
        source = contents.source(entry["source"])[0]
        seen = overlap_remark(subject.training, entry["suite"], source) if subject.training else ""
        for remark in filter(None, (seen, *_remarks(entry, summary, len(source)))):
            console.print(remark, highlight=False, markup=False)
    for entry in entries:
        folder = subject.evals / f"{entry['suite']}-{entry['eval_id']}"
        console.print(f"samples  {folder}", highlight=False, soft_wrap=True)


def _remarks(entry: Mapping[str, Any], summary: Any, num_problems: int) -> list[str]:
    """What a reader of the suite's numbers must know."""
    dropped = num_problems - summary.problems
    limit = f"{entry['suite']}: {dropped} of {num_problems} problems dropped, longer than prompt.max_tokens"
    return [text for text in (entry["caution"], limit if dropped else "") if text]


def _run_subject(config: Frozen, overrides: Sequence[str]) -> _Subject:
    run_dir = find_run(Path(config["store"]), config["run"])
    frozen = verify(run_dir)
    if not config["eval"]["suites"]:
        typed = {key: config["eval"][key] for key in _typed_eval_keys(overrides)}
        config["eval"] = {**config["eval"], **frozen["eval"], **typed}  # keys newer than the run: default
    config["model"] = frozen["model"]
    if not any(text.lstrip("+").startswith("prompt") for text in overrides):
        config["prompt"] = frozen.get("prompt")
    folders = sorted((run_dir / "checkpoints").glob("step-*"))
    if not folders:
        raise ValueError(
            f"{run_dir} has no checkpoint yet: wait for the run, or continue it with its own command"
        )
    step = int(folders[-1].name.partition("-")[2])
    return _Subject(
        name=run_dir.name,
        folder=folders[-1],
        evals=run_dir / "evals",
        step=step,
        seed=frozen["seed"],
        chat=build(frozen["model"]).chat,
        config_hash=read_json(run_dir / "plan.json")["config_sha"][:12],
        training=frozen["data"],
    )


def _typed_eval_keys(overrides: Sequence[str]) -> list[str]:
    """Keys right below ``eval``: of ``eval.rule.high=2`` and ``eval/rule=cuts`` it is ``rule``."""
    keys = (text.lstrip("+~").partition("=")[0].replace("/", ".").split(".") for text in overrides)
    return list(dict.fromkeys(key[1] for key in keys if key[0] == "eval" and len(key) > 1))


def _model_subject(config: Frozen, contents: Contents, console: Console) -> _Subject:
    model = build(config["model"])
    data = contents.source(config["data"])[0] if config["data"] else None
    revision = model.revision(data=data)
    _quiet_transformers()
    make_store(Path(config["store"]))
    with console.status("loading the model (built on first use)"):
        folder = model.materialise(data=data, cache=Path(config["store"]) / "models")
    name = f"{config['model'][KIND].rpartition('/')[2]}-{digest(revision)[:8]}"
    return _Subject(
        name=name,
        folder=folder,
        evals=Path(config["store"]) / "evals" / name,
        step=None,
        seed=None,
        chat=model.chat,
        config_hash=digest(config["model"])[:12],
    )


def _quiet_transformers() -> None:
    """No progress bars of loading and saving; ours counts samples."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def find_run(store: Path, name: str) -> Path:
    """The folder of a run by its id, an unambiguous beginning of it, or its path. Raises ValueError."""
    if (Path(name) / "plan.json").is_file():
        return Path(name).resolve()
    check_name(name, what="the id of a run (it is no folder of one)")
    found = sorted(path.parent for path in (store / "runs").glob(f"{name}*/plan.json"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs begin with" if found else "there is no run"
    raise ValueError(f"{what} {name!r} in {store / 'runs'}: give the id that the plan or the table shows")


def _evaluate_all(
    config: Frozen, subject: _Subject, entries: Sequence[Mapping[str, Any]], console: Console
) -> list[Any]:
    """The summaries of all suites; the model is loaded once."""
    import torch

    from tokensweep.evaluate import EvalSpec, Subject, announce_rules, evaluate
    from tokensweep.models.policy import Policy
    from tokensweep.models.prompts import fitting, prompt_of
    from tokensweep.train.setup import device_of, encoder

    _quiet_transformers()
    torch.set_num_threads(config["compute"]["threads"])
    device = device_of(config["compute"]["device"])
    policy = Policy(subject.folder, dtype=getattr(torch, config["compute"]["dtype"]), device=device)
    who = Subject(run_id=subject.name, config_hash=subject.config_hash, seed=subject.seed)
    prompt = prompt_of(config)
    encode = encoder(prompt, policy, chat=subject.chat)
    asked = [fitting(prompt, build(entry["source"]), encode) for entry in entries]
    summaries = []
    with closing(build(config["rollout"])) as engine, Progress(console=console, transient=True) as bar:
        starting = bar.add_task("starting the engine", total=None)
        announce_rules(entries, engine)
        engine.load(policy, version=subject.step or 0)
        bar.remove_task(starting)
        for entry, indices in zip(entries, asked, strict=True):
            task = bar.add_task(entry["suite"], total=len(indices) * entry["num_samples"])
            spec = EvalSpec.of(entry, engine=config["rollout"])
            summaries.append(
                evaluate(
                    policy,
                    engine,
                    build(entry["source"]),
                    spec,
                    out_dir=subject.evals / spec.folder_name,
                    subject=who,
                    encode=encode,
                    indices=indices,
                    progress=partial(_show, bar, task),
                )
            )
    return summaries


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _rule(entry: Mapping[str, Any]) -> str:
    """The sampling rule of an evaluation with its settings; empty where it has none."""
    rule = entry.get("rule")
    if not rule:
        return ""
    settings = ", ".join(f"{key} {value:g}" for key, value in rule.items() if key != KIND)
    return f"{rule[KIND].rpartition('/')[2]}: {settings}"


def _table(subject: _Subject, entries: Sequence[Mapping[str, Any]], summaries: Sequence[Any]) -> Group:
    """Tables with a row per suite: how good, at the largest k, how it ended, how sure where it says so."""
    step = "" if subject.step is None else f", step {subject.step}"
    drawn = "".join(f"\ndrawn by {told}" for told in dict.fromkeys(map(_rule, entries)) if told)
    suites = ("suite", [s.suite for s in summaries])
    k = max((k for s in summaries for k in s.pass_at), default=1)
    taus = sorted({tau for s in summaries for tau in s.cover_at})
    quality = [
        suites,
        ("problems", [str(s.problems) for s in summaries]),
        ("n", [str(s.num_samples) for s in summaries]),
        ("avg@n", [_rate(s.avg) for s in summaries]),
        (f"pass@{k}", [_rate(s.pass_at.get(k)) for s in summaries]),
        (f"guess@{k}", [_rate(s.guess_floor.get(k)) for s in summaries]),
        (f"maj@{k}", [_rate(s.maj_at.get(k)) for s in summaries]),
        (f"pass^{k}", [_rate(s.pass_hat.get(k)) for s in summaries]),
        *((f"cover@{tau:g}", [_rate(s.cover_at.get(tau)) for s in summaries]) for tau in taus),
    ]
    endings = [
        suites,
        ("truncated", [_rate(s.truncated_fraction) for s in summaries]),
        ("no answer", [_rate(s.no_answer_fraction) for s in summaries]),
        ("grader failed", [_rate(s.error_fraction) for s in summaries]),
        ("tokens", [f"{s.length_mean:.0f}" for s in summaries]),
    ]
    known = dict.fromkeys(key for s in summaries for key in s.stated)
    certainty = [
        suites,
        *((key.replace("_", " "), [_rate(s.stated.get(key)) for s in summaries]) for key in known),
    ]
    parts = (quality, endings, certainty) if known else (quality, endings)
    tables = [FittedTable(tuple(_column(*each) for each in part if any(each[1]))) for part in parts]
    return Group(
        Text(f"{subject.name}{step}{drawn}", style="bold"),
        *(part for table in tables for part in ("", table)),
        "",
    )


def _column(header: str, cells: Sequence[str]) -> Column:
    return Column(Cell((header,)), tuple(Cell((cell,)) for cell in cells))


def _rate(value: float | None) -> str:
    """A share, or nothing where it is unknown."""
    return "" if value is None else f"{value:.3f}"
