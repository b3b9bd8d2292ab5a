"""The command ``tokensweep analyse``: what a run did with its tokens, from the rollouts that it stored."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tokensweep.identity import digest, read_json, verify
from tokensweep.ledger import Status, read_run
from tokensweep.options import known_run, with_store
from tokensweep.registry import KIND, build

if TYPE_CHECKING:
    import pandas as pd

    from tokensweep.rescore import Entropies, Rescorer
    from tokensweep_analysis.tokens.findings import Findings
    from tokensweep_analysis.tokens.selection import Rule

_DESCRIPTION = """\
Which tokens did a run train, how uncertain was the policy there, and how far did both move away from the
model that it started from? The analyses of arXiv:2506.01939 (sections 3 and 4) on the rollouts that the run
stored (store_rollouts.every and store_rollouts.share of its config).

Prints percentiles of entropy, the tokens most often of high entropy, their overlap with the base model's,
the change of entropy by percentile of base entropy, and entropy by position. Writes to
<store>/runs/RUN/analysis/tokens: page.html (chains of thought coloured by entropy, kept tokens marked),
tokens.parquet (a row per token), a CSV per table, plots. All of it can be deleted and made again.

The base model is run once over the stored rollouts; what it says is kept in scores/ there.

examples:
  tokensweep analyse tokens 182fb03a
  tokensweep analyse tokens 182fb03a --on last      the paper's comparison, by checkpoints that are kept
  tokensweep analyse tokens 182fb03a --fraction 0.5 --no-base
"""
_PAGE_TOKENS = 40_000  # about 80 bytes each: with its plots the page stays below 4 MB


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The run that is looked at and how."""

    folder: Path
    store: Path
    config: Mapping[str, Any]
    options: argparse.Namespace

    @property
    def out(self) -> Path:
        """Where the files go."""
        return self.options.out or self.folder / "analysis" / "tokens"


def analyse_command(arguments: Sequence[str]) -> None:
    """Analyse the stored rollouts of a run; prints tables and writes files into the run's folder.

    Raises ValueError for an unknown run, one without stored rollouts, a damaged file, and a base model that
    is not to be had.
    """
    options, store, _ = with_store(_parser(), arguments)
    _check(options)
    folder = known_run(store, options.run)
    run = _Run(folder=folder, store=store, config=verify(folder), options=options)
    console = Console()
    findings, files = _analyse(run, console)
    _show(run, findings, files, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokensweep analyse",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=["tokens"], help="what to look at")
    add("run", help="id of a run, or its beginning (tokensweep status SWEEP --runs lists them)")
    add(
        "--fraction",
        type=float,
        help="share of tokens that counts as of high entropy; default: the run's own selection, else 0.2",
    )
    add(
        "--on",
        choices=["each", "last"],
        default="each",
        help="each: compare with the base model on the rollouts of each step. last: as the paper does, also "
        "on the last stored rollouts, by the policy of every checkpoint that is kept",
    )
    add("--no-base", action="store_true", help="leave out what needs the base model")
    add(
        "--min-count",
        type=int,
        default=20,
        help="occurrences that a token needs to be listed (default 20; the paper: 100 of a million)",
    )
    add("--rollouts", type=int, default=12, help="rollouts on the page (default 12)")
    add(
        "--max-tokens",
        type=int,
        default=5_000_000,
        help="look at a random part of the rollouts of each step where there are more tokens (default 5e6)",
    )
    add("--out", type=Path, help="another folder to write to, as where the run is not yours")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the base model runs")
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in ("min_count", "rollouts", "max_tokens"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.fraction is not None and not 0 < options.fraction <= 1:
        raise ValueError(f"--fraction must be in (0, 1], got {options.fraction:g}")
    if options.no_base and options.on == "last":
        raise ValueError("--on last compares with the base model: leave out --no-base")


def _analyse(run: _Run, console: Console) -> tuple[Findings, list[Path]]:
    import pandas as pd
    from transformers.utils import logging

    from tokensweep.compose import register_components
    from tokensweep_analysis.tokens.examples import examples
    from tokensweep_analysis.tokens.files import write_findings
    from tokensweep_analysis.tokens.findings import Subject, analyse
    from tokensweep_analysis.tokens.table import token_table

    register_components()
    logging.disable_progress_bar()  # of loading weights; ours counts tokens
    by_step, notes = _stored(run)
    base = None if run.options.no_base else _base_rescorer(run)
    tokenizer = _tokenizer(run)
    rollouts = pd.concat(list(by_step.values()), ignore_index=True)
    pieces = token_texts(tokenizer, {int(each) for ids in rollouts["token_ids"] for each in ids})
    before = _scores(base, by_step, console=console, what="base model") if base else None
    tokens = token_table(rollouts, pieces=pieces, base_entropy=before)
    later = None
    if run.options.on == "last" and before is not None:
        later = _later(run, by_step, before, pieces=pieces, console=console)
    rule, remarks = _rule(run)
    subject = Subject(
        run_id=run.folder.name,
        method=run.config["method"]["name"],
        model=run.config["model"][KIND].rpartition("/")[2],
        temperature=run.config["sampling"]["temperature"],
        notes=(*notes, *remarks),
    )
    findings = analyse(tokens, subject=subject, rule=rule, min_count=run.options.min_count, later=later)
    firsts = rollouts.drop_duplicates(["step", "group"])
    prompts = {
        (int(step), int(group)): str(tokenizer.decode(list(map(int, ids))))
        for step, group, ids in zip(firsts["step"], firsts["group"], firsts["prompt_ids"], strict=True)
    }
    shown = examples(findings.tokens, prompts=prompts, number=run.options.rollouts, max_tokens=_PAGE_TOKENS)
    return findings, write_findings(run.out, findings, examples=shown)


def _stored(run: _Run) -> tuple[dict[int, pd.DataFrame], list[str]]:
    """The stored rollouts by step, within the limit, and what a reader must know of them."""
    from tokensweep_analysis.tokens.stored import random_share, read_rollouts, stored_files

    files = stored_files(run.folder)
    record = read_run(run.folder)
    settings = run.config["store_rollouts"]
    if not files:
        raise ValueError(f"{run.folder.name} has no stored rollouts: {_why_none(settings, record.last_step)}")
    limit = run.options.max_tokens // len(files)
    whole = {step: read_rollouts(path) for step, path in files.items()}
    parts = {
        step: random_share(frame, max_tokens=limit, seed=run.config["seed"]) for step, frame in whole.items()
    }
    notes = []
    if record.status not in (Status.trained, Status.finished):
        notes.append(f"the run is {record.status} at step {record.last_step} of {run.config['steps']}")
    if settings["share"] < 1:
        notes.append(
            f"the run stored {100 * settings['share']:g} % of its rollouts (store_rollouts.share): "
            "a choice over the whole batch is seen on a part of it"
        )
    used, all_of_them = (sum(map(len, frames.values())) for frames in (parts, whole))
    if used < all_of_them:
        notes.append(f"{used} of {all_of_them} stored rollouts, chosen at random (--max-tokens)")
    return parts, notes


def _why_none(settings: Mapping[str, Any], step: int) -> str:
    if not settings["every"] or not settings["share"]:
        return (
            f"its config has store_rollouts.every={settings['every']} and store_rollouts.share="
            f"{settings['share']:g}; run it again with store_rollouts.every=10 store_rollouts.share=1"
        )
    return f"it stores them every {settings['every']} steps (store_rollouts.every) and is at step {step}"


def _rule(run: _Run) -> tuple[Rule, list[str]]:
    """Which tokens count as of high entropy and as kept, and what a reader must know of that."""
    from tokensweep.loss.method import build_method
    from tokensweep.loss.slots import Policy
    from tokensweep.methods.forking_tokens import EntropyWeight, Side
    from tokensweep_analysis.tokens.selection import Rule

    method = build_method(run.config["method"])
    weights = list(method.token_weights.values())
    own = next((weight for weight in weights if isinstance(weight, EntropyWeight)), None)
    asked = run.options.fraction
    kept_by_run = bool(method.token_weights_of(Policy.old))
    remarks = []
    if method.token_weights_of(Policy.current):
        remarks.append(
            "weights that the current policy decides in each forward are not stored: "
            "high entropy is of the policy that sampled"
        )
    if own is None or asked is not None:
        return Rule(fraction=asked or 0.2, kept_by_run=kept_by_run), remarks
    is_stored = len(weights) == 1 and own.policy is Policy.old and own.side is not Side.random
    rule = Rule(
        fraction=own.fraction,
        threshold=own.threshold,
        scope="batch" if own.scope == "micro" else own.scope.value,
        kept_by_run=kept_by_run,
        top_by_run=own.side.value if is_stored else None,
    )
    return rule, remarks


def _base_rescorer(run: _Run) -> Rescorer:
    revision = read_json(run.folder / "plan.json")["model_revision"]
    return _rescorer(run, name="base", revision=revision, model_folder=lambda: _base_folder(run))


def _base_folder(run: _Run) -> Path:
    """The model that the run started from, made or fetched where it is not there."""
    wanted = read_json(run.folder / "plan.json")["model_revision"]
    leave_out = "or leave out what needs it with --no-base"
    try:
        source = build(run.config["data"])
        model = build(run.config["model"])
        found = model.revision(data=source)
        if found == wanted:
            folder: Path = model.materialise(data=source, cache=run.store / "models")
            return folder
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the base model of {run.folder.name} is not to be had ({error}): bring it back, {leave_out}"
        ) from error
    raise ValueError(
        f"the base model of {run.folder.name} was {wanted}, but its config gives {found} now: bring the old "
        f"one back, {leave_out}"
    )


def _rescorer(run: _Run, *, name: str, revision: str, model_folder: Callable[[], Path]) -> Rescorer:
    import torch

    from tokensweep.rescore import Rescorer
    from tokensweep.train.setup import device_of

    if run.options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU that torch sees: take --device cpu")
    torch.set_num_threads(run.config["compute"]["threads"])
    return Rescorer(
        name=name,
        revision=revision,
        model_folder=model_folder,
        cache=run.out / "scores",
        temperature=run.config["sampling"]["temperature"],
        dtype=run.config["compute"]["dtype"],
        device=device_of(run.options.device),
        micro_tokens=run.config["batch"]["micro_tokens"],
    )


def _scores(
    rescorer: Rescorer, by_step: Mapping[int, pd.DataFrame], *, console: Console, what: str
) -> Entropies:
    """Entropies of all rollouts in order, with a progress bar."""
    from rich.progress import Progress

    total = sum(len(ids) for frame in by_step.values() for ids in frame["token_ids"])
    found: Entropies = []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"{what}: tokens", total=total)
        for step, frame in by_step.items():
            found += rescorer.entropies(frame, step=step, advance=lambda n: bar.advance(task, n))
    return found


def _later(
    run: _Run,
    by_step: Mapping[int, pd.DataFrame],
    base: Entropies,
    *,
    pieces: Mapping[int, str],
    console: Console,
) -> pd.DataFrame:
    """The last stored rollouts as the policies of the kept checkpoints see them, one below the other."""
    import pandas as pd

    from tokensweep_analysis.tokens.table import token_table

    folders = sorted((run.folder / "checkpoints").glob("step-*"))
    if not folders:
        raise ValueError(f"{run.folder.name} has no checkpoint that --on last could look at: use --on each")
    step, frame = list(by_step.items())[-1]
    tables = []
    for folder in folders:
        files = read_json(folder / "state.json")["files"]
        at = partial(Path, folder)
        rescorer = _rescorer(run, name=folder.name, revision=digest(files), model_folder=at)
        entropy = _scores(rescorer, {step: frame}, console=console, what=folder.name)
        number = int(folder.name.removeprefix("step-"))
        own = frame.assign(old_entropy=pd.Series(entropy, dtype=object), step=number)
        tables.append(token_table(own, pieces=pieces, base_entropy=base[-len(frame) :]))
    return pd.concat(tables, ignore_index=True)


def _tokenizer(run: _Run) -> Any:
    """The one that the newest checkpoint has, else the base model's."""
    from tokensweep.models.store import load_tokenizer

    folders = sorted((run.folder / "checkpoints").glob("step-*"))
    return load_tokenizer(folders[-1] if folders else _base_folder(run))


def token_texts(tokenizer: Any, ids: set[int]) -> dict[int, str]:
    """The text of single tokens, white space in front included; a part of a character by its token's name."""
    texts = {}
    for each in sorted(ids):
        name = tokenizer.convert_ids_to_tokens(each) or f"<{each}>"
        text = tokenizer.decode([each], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if "\N{REPLACEMENT CHARACTER}" in text or not text:
            text = name
        elif name.startswith("▁") and not text.startswith(" "):  # SentencePiece drops it in front of a text
            text = f" {text}"
        texts[each] = text
    return texts


def _show(run: _Run, findings: Findings, files: Sequence[Path], console: Console) -> None:
    from tokensweep_analysis.tokens.terminal import renderables

    subject = findings.subject
    told = f"{subject.run_id}  {subject.method}, {len(findings.tokens):,} stored tokens"
    for line in (told, findings.kept_means, *(f"note: {note}" for note in subject.notes)):
        console.print(line, highlight=False, markup=False)
    for part in renderables(findings):
        console.print(part)
    size = sum(path.stat().st_size for path in files)
    console.print(f"\n{len(files)} files, {size / 1e6:.1f} MB", highlight=False)
    console.print(f"page    {run.out / 'page.html'}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"tables  {run.out}", highlight=False, markup=False, soft_wrap=True)
