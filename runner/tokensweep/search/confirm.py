"""``tokensweep confirm``: the best arms of a search, trained anew, against its base, as an ordinary sweep.

The best of many trials is partly the luckiest. On other seeds and other questions luck is drawn again, so a
verdict there is about the arm; the value that chose it is not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tokensweep.compose import Freezer, Frozen, register_components
from tokensweep.identity import read_json
from tokensweep.names import check_name
from tokensweep.options import own_words, seeds_of, split_launcher
from tokensweep.paths import default_store
from tokensweep.plan import Plan, freeze_job
from tokensweep.registry import build
from tokensweep.search.choice import (
    Arm,
    Choice,
    Trial,
    best_trials,
    complete_trials,
    fresh_seeds,
    searched_seeds,
)
from tokensweep.search.copy import copy_study
from tokensweep.search.questions import asked_again, asked_by, refuse_seen, skipping, ways_out
from tokensweep.search.spec import Search, is_search, search_folder
from tokensweep.sweepfile import Job, Sweep, to_overrides
from tokensweep_analysis.wording import counted

BASE = "base"  # the arm that nothing was searched for

_TOP, _SEEDS = 3, 5
_FILE = "confirm.json"
_OF_THE_COMMAND = ("store", "jobs", "sweep", "site", "wait", "tracking", "seed")  # no part of an arm


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was typed."""

    search: str
    store: Path
    overrides: tuple[str, ...] = ()
    top: int | None = None
    num_seeds: int | None = None
    seeds: tuple[int, ...] = ()  # by hand; none: the next ones
    name: str = ""  # of the sweep
    same_questions: bool = False

    @property
    def sweep(self) -> str:
        """The name of the confirmation."""
        return check_name(self.name or f"{self.search}-confirm", what="the name of a sweep")

    @property
    def path(self) -> Path:
        """Where the choice is written down."""
        return self.store / "sweeps" / self.sweep / _FILE


def confirm_command(arguments: Sequence[str]) -> None:
    """Run the command. Raises ValueError before anything starts for what cannot be confirmed."""
    from tokensweep.orchestrate import dry_run, run_sweep

    options = _parser().parse_intermixed_args(arguments)
    launcher, overrides = split_launcher(options.overrides)
    console = Console()
    register_components()
    request = _request(options, overrides)
    if problem := copy_study(request.store, request.search):
        console.print(problem, highlight=False, markup=False, style="yellow")
    choice, is_new = choose(request)
    sweep = sweep_of(choice, request)
    for line in _announcement(choice, request, is_new=is_new):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def check(plan: Plan) -> None:
        if not request.same_questions:
            refuse_seen(plan, choice.seen, search=choice.search)
        if is_new and not options.dry_run:
            choice.write(request.path)

    run = dry_run if options.dry_run else run_sweep
    run(sweep, launcher=launcher, check=check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokensweep confirm",
        description="Train the best arms of a search again, on seeds and questions that it has not seen, "
        "beside its base, and report a verdict on each. The arms are chosen once: the same command goes on "
        "with them.",
        epilog="seeds=7,8 gives the seeds by hand, sweep=NAME starts another confirmation; any other "
        "KEY=VALUE is a Hydra override for every run, as of 'tokensweep sweep'.",
    )
    parser.add_argument("search", help="name of the search")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--top", type=int, help=f"how many arms (default {_TOP})")
    parser.add_argument("--seeds", type=int, help=f"how many seeds per arm (default {_SEEDS})")
    parser.add_argument(
        "--same-questions", action="store_true", help="ask what the search asked; the table's note says so"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run, as 'tokensweep plan' does"
    )
    return parser


def _request(options: argparse.Namespace, overrides: Iterable[str]) -> Request:
    own, rest = own_words(overrides, {"seeds": "", "sweep": ""})
    store = ""
    for override in rest:
        key, _, value = override.partition("=")
        if key == "seed":
            raise ValueError(f"{override} would give all runs one seed: --seeds COUNT, or seeds=7,8 by hand")
        store = value if key == "store" else store
    folder = Path(store).expanduser().resolve() if store else default_store()
    return Request(
        search=known_search(folder, options.search),
        store=folder,
        overrides=tuple(rest),
        top=options.top,
        num_seeds=options.seeds,
        seeds=tuple(seeds_of(own["seeds"])),
        name=own["sweep"],
        same_questions=options.same_questions,
    )


def known_search(store: Path, name: str) -> str:
    """``name`` if it is a search of the store. Raises ValueError that lists what there is."""
    if name and check_name(name, what="the name of a search") and is_search(store, name):
        return name
    known = sorted(path.parents[1].name for path in (store / "sweeps").glob("*/search/search.json"))
    found = f"searches are {', '.join(known)}" if known else "there is no search"
    if (store / "sweeps" / name / "sweep.json").is_file():
        raise ValueError(f"{name} is a sweep and no search, so none of its arms was chosen ({found})")
    raise ValueError(f"no search {name!r} in {store}: {found}")


def choose(request: Request) -> tuple[Choice, bool]:
    """What is confirmed, and whether it was chosen only now. Nothing is written.

    Raises ValueError for a search without enough complete trials, and for seeds that it used.
    """
    if request.path.is_file():
        choice = Choice.read(request.path)
        if choice.search != request.search:
            raise ValueError(
                f"{request.sweep} confirms the search {choice.search}, not {request.search}: take another "
                "sweep=NAME"
            )
        return choice, False
    if (request.path.parent / "sweep.json").is_file() or is_search(request.store, request.sweep):
        raise ValueError(f"{request.sweep} is a sweep already, and no confirmation: take another sweep=NAME")
    search, told = _read(request)
    trials = told["trials"]
    top = _TOP if request.top is None else request.top
    best = best_trials(trials, search.objectives, top=top, search=search.name)
    used = searched_seeds(search, trials)
    count = len(request.seeds) or _SEEDS if request.num_seeds is None else request.num_seeds
    seeds = fresh_seeds(used, count=count, given=request.seeds)
    base = tuple(text for text in search.base if _key(text).partition(".")[0] not in _OF_THE_COMMAND)
    freezer = Freezer()

    def config_of(trial: Trial) -> Frozen:
        own = search.space.overrides(trial["params"])
        where = to_overrides({"seed": used[0], "store": str(request.store)})
        return freeze_job(Job("", trial["arm"], (*_replaced(base, own), *where)), freezer)

    choice = Choice(
        search=search.name,
        objectives=tuple(search.objectives),
        top=top,
        arms=tuple(_arm(trial, search) for trial in best),
        base=base,
        seeds=tuple(seeds),
        searched_seeds=tuple(used),
        num_trials=_num_tried(trials),
        num_complete=len(complete_trials(trials)),
        seen=tuple(asked_by(trials, store=request.store, config_of=config_of)),
    )
    return choice, True


def _arm(trial: Trial, search: Search) -> Arm:
    return Arm(
        name=trial["arm"],
        params=trial["params"],
        values=tuple(trial["values"]),
        overrides=tuple(search.space.overrides(trial["params"])),
    )


def _read(request: Request) -> tuple[Search, Mapping[str, Any]]:
    """A search and its ``trials.json``."""
    folder = search_folder(request.store, request.search)
    search = Search.from_json(read_json(folder / "search.json")["search"])
    path = folder / "trials.json"
    if not path.is_file():
        raise ValueError(f"the search {search.name} has no {path.name} yet: tokensweep report {search.name}")
    return search, read_json(path)


def _num_tried(trials: Iterable[Trial]) -> int:
    """Trials that count and have begun."""
    return sum(bool(trial["counted"]) and trial["state"] != "waiting" for trial in trials)


def sweep_of(choice: Choice, request: Request) -> Sweep:
    """The confirmation as a sweep. Raises ValueError for an override of what was searched, and for suites
    with too few questions that the search has not asked.
    """
    search = Search.from_json(
        read_json(search_folder(request.store, request.search) / "search.json")["search"]
    )
    _refuse_searched([one.key for one in search.space.parameters], request.overrides)
    texts = {BASE: choice.base} | {arm.name: _replaced(choice.base, arm.overrides) for arm in choice.arms}
    typed = {name: _replaced(own, request.overrides) for name, own in texts.items()}
    fresh, config = _fresh(choice, request, typed[BASE])
    again = any(asked_again(node, choice.seen) for node in config["eval"]["suites"].values())
    jobs = tuple(
        Job("", name, (*own, f"seed={seed}", *fresh)) for seed in choice.seeds for name, own in typed.items()
    )
    return Sweep(
        name=request.sweep,
        jobs=jobs,
        scale=config["scale"] or search.scale,
        paper=search.paper,
        question=search.question,
        note=" ".join(filter(None, (search.note, note_of(choice, again=again)))),
        baseline=BASE,
        claims=tuple(map(claim_of, choice.arms)),
    )


def claim_of(arm: Arm) -> dict[str, Any]:
    """The claim that is decided about an arm."""
    return {
        "id": f"{arm.name.replace('-', '_')}_beats_{BASE}",
        "kind": "superiority",
        "contrast": f"{arm.name} - {BASE}",
        "metric": "pooled/avg",
    }


def note_of(choice: Choice, *, again: bool) -> str:
    """What a reader of the table must know of how its arms came about."""
    before, here = (", ".join(map(str, seeds)) for seeds in (choice.searched_seeds, choice.seeds))
    chosen = (
        f"Chosen among {counted(choice.num_trials, 'trial')} of the search {choice.search}: "
        f"{', '.join(arm.name for arm in choice.arms)}. The search has seeds {before}; these runs have seeds "
        f"{here} and"
    )
    if again:
        return (
            f"{chosen} the same questions as the search: the verdict still carries its winner's curse over "
            "questions."
        )
    return (
        f"{chosen} questions that the search has not asked: the verdict is free of the winner's curse, while "
        "the search's own maximum is not."
    )


def _refuse_searched(keys: Sequence[str], overrides: Iterable[str]) -> None:
    for text in overrides:
        typed = _key(text)
        if same := [key for key in keys if key == typed or key.startswith((f"{typed}.", f"{typed}@"))]:
            raise ValueError(
                f"{text} would give all arms one value of what was searched ({', '.join(same)}): leave it out"
            )


def _fresh(choice: Choice, request: Request, base: Sequence[str]) -> tuple[list[str], Frozen]:
    """Overrides for questions that the search has not asked, and the config of the base with them."""
    freezer, seed = Freezer(), f"seed={choice.seeds[0]}"
    config = freeze_job(Job("", BASE, (*base, seed)), freezer)
    if request.same_questions:
        return [], config
    fresh = skipping(config, choice.seen, given=map(_key, request.overrides))
    if not fresh:
        return [], config
    try:
        skipped = freeze_job(Job("", BASE, (*base, seed, *fresh)), freezer)
        for node in skipped["eval"]["suites"].values():
            build(node)[0]  # reads it, and so counts
    except ValueError as error:
        first = next(iter(config["eval"]["suites"].values()))
        raise ValueError(
            f"too few questions are left that the search {choice.search} has not asked: "
            f"{str(error).partition(chr(10))[0]}; {ways_out(first)}"
        ) from error
    return fresh, skipped


def _replaced(base: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Overrides with others in place of those with the same key.

    Another evaluation also takes the place of what was said of the suites that it replaces.
    """
    keys = {_key(text) for text in own}
    gone = ("eval.suites.", "eval.held_out_skip") if "eval" in keys else ()
    kept = [text for text in base if _key(text) not in keys and not (gone and _key(text).startswith(gone))]
    return (*kept, *own)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _announcement(choice: Choice, request: Request, *, is_new: bool) -> list[str]:
    """What is confirmed, and where that differs from what was asked for."""
    names = ", ".join(choice.objectives)
    front = (
        f" (the Pareto front has no more than {len(choice.arms)})" if len(choice.arms) < choice.top else ""
    )
    lines = [
        f"{choice.search}: the best {len(choice.arms)}{front} of "
        f"{counted(choice.num_complete, 'complete trial')}, with {names} in the search"
    ]
    for arm in choice.arms:
        values = ", ".join(f"{value:.4g}" for value in arm.values)
        lines.append(f"  {arm.name}  {values}  {' '.join(arm.overrides)}")
    if not is_new and (differs := _differences(choice, request)):
        lines.append(
            f"chosen by the first confirm and kept, though {' and '.join(differs)}. To choose again: "
            f"tokensweep confirm {choice.search} sweep=NAME"
        )
    return lines


def _differences(choice: Choice, request: Request) -> list[str]:
    """Clauses on what a choice of today would have otherwise."""
    found = []
    if request.top not in (None, choice.top):
        found.append(f"--top is {request.top} now")
    wanted = request.seeds or ((request.num_seeds,) if request.num_seeds is not None else ())
    kept = choice.seeds if request.seeds else (len(choice.seeds),)
    if wanted and tuple(wanted) != tuple(kept):
        found.append(f"other seeds than {', '.join(map(str, choice.seeds))} were asked for")
    try:
        now = len(complete_trials(_read(request)[1]["trials"]))
    except ValueError:
        return found  # nothing can be told of a search whose trials are gone
    if now > choice.num_complete:
        found.append(f"the search has {now} complete trials now, {choice.num_complete} then")
    return found
