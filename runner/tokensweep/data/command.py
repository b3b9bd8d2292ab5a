"""``tokensweep data``: which problem sets there are, whether a file is right, the download, the choice."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tokensweep.compose import register_components
from tokensweep.data.catalogue import default_file, is_benchmark, known_sets
from tokensweep.data.check import check_sets
from tokensweep.data.fetch import Download, fetch, from_hub
from tokensweep.names import check_name
from tokensweep.paths import default_store
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.store import make_store

_DESCRIPTION = """\
Problem sets are local JSONL files with id, problem and answer on every line. Runs read nothing else, so the
nodes of a cluster need no internet: fetch on a machine that has it, copy <store>/data, run anywhere.

  tokensweep data list                          known sets: origin, licence, and whether the file is here
  tokensweep data fetch aime25 math500          download, convert and check; writes <store>/data/<name>.jsonl
  tokensweep data fetch dapo_math_17k to=.      write into another folder
  tokensweep data check aime25 my_set.jsonl     count, answers, repeated problems, overlap with other sets
  tokensweep data select RUN keep=384 to=FILE   problems that a model is uncertain about, for data=mixed

data=NAME and eval=NAME find <store>/data/<name>.jsonl by themselves; data.path=FILE and eval.path=FILE take
another file. tokensweep ships no problems; mind the licence of each set. Downloads were tested against a fake
of the hub only.
"""
_ROW = "{:<14}  {:>8}  {:<10}  {}"  # set, problems, public, here
_KEYS = ("store=", "to=", "force=", "revision=", "keep=")
_EPILOG = "store=FOLDER may be given as well ($TOKENSWEEP_HOME or ~/tokensweep otherwise)."


def data_command(arguments: Sequence[str], *, download: Download = from_hub) -> None:
    """Carry out ``tokensweep data ...``. Leaves with 1 when a file is wrong or sets overlap."""
    given = dict(word.split("=", 1) for word in arguments if word.startswith(_KEYS))
    options = _parser().parse_args([word for word in arguments if word.partition("=")[0] not in given])
    store = Path(given["store"]).expanduser().resolve() if given.get("store") else default_store()
    console = Console()
    register_components()
    if options.action == "list":
        _list(store, console)
    elif options.action == "check":
        if not check_sets(options.names, store=store, console=console):
            raise SystemExit(1)
    elif options.action == "select":
        _select(options.run, given, store=store, console=console)
    else:
        folder = Path(given["to"]).expanduser().resolve() if "to" in given else None
        force = given.get("force", "false").lower() in ("true", "1", "yes")
        sets = _wanted(options.names, revision=given.get("revision"))
        _fetch(sets, store, folder, force=force, download=download, console=console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokensweep data",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | fetch | check | select")
    actions.add_parser("list", help="known sets and where they are", epilog=_EPILOG)
    fetching = actions.add_parser(
        "fetch",
        help="download known sets",
        description="Download known sets from the hub, convert and check them, write each in one step.",
        epilog="to=FOLDER writes elsewhere, force=true replaces a file that differs, revision=COMMIT takes "
        f"that commit of the dataset. {_EPILOG}",
    )
    fetching.add_argument("names", nargs="+", metavar="NAME", help="as tokensweep data list shows them")
    checking = actions.add_parser(
        "check",
        help="check files",
        description="Check sets or files as a run does at its start, and compare them with each other and "
        "with the sets that are here; exit code 1 when one is wrong or training and evaluation overlap.",
        epilog=f"A file that is named like a known set must hold that set. {_EPILOG}",
    )
    checking.add_argument("names", nargs="+", metavar="NAME|FILE")
    selecting = actions.add_parser(
        "select",
        help="choose problems by a model's uncertainty",
        description="Score the problems of a run by (1 - 2 |accuracy - 1/2|) times the mean entropy of the "
        "20 % most uncertain tokens of each rollout, and write the keep=N best into to=FILE, which "
        "data.selection of data=mixed reads (HEAL, arXiv:2604.17928). Draw the rollouts of the model as it "
        "is with 'tokensweep train data=mixed data.target_share=0 data.num_general=null optim.lr=0 "
        "store_rollouts.every=1 store_rollouts.share=1 method=grpo batch.group_size=8 steps=N'.",
        epilog=_EPILOG,
    )
    selecting.add_argument("run", metavar="RUN", help="id of a run, its beginning, or its folder")
    return parser


def _select(run: str, given: dict[str, str], *, store: Path, console: Console) -> None:
    from tokensweep.data.select import select  # reads runs, which the other actions need not

    if not given.get("to") or not given.get("keep", "").isdecimal():
        raise ValueError(
            "tokensweep data select must know keep=N and to=FILE: how many problems, and where to"
        )
    file = Path(given["to"]).expanduser().resolve()
    chosen, everyone = select(run, store=store, keep=int(given["keep"]), to=file)
    mean, before = (sum(each.score for each in some) / len(some) for some in (chosen, everyone))
    console.print(
        f"{len(chosen)} of {len(everyone)} problems, mean score {mean:.3f} instead of {before:.3f} nats",
        highlight=False,
    )
    console.print(f"  {file}\n  data=mixed data.selection={file}", highlight=False, soft_wrap=True)


def _list(store: Path, console: Console) -> None:
    """Two lines per set, neither of which is wrapped: ids of the hub are there to be copied."""
    sets = known_sets()
    for kind, wanted in (("benchmarks", True), ("training sets", False)):
        console.print(kind, style="bold")
        header = (_ROW.format("set", "problems", "public", "here"), "  hub dataset  licence  facts checked")
        rows = (
            _facts(source, default_file(store, name))
            for name, source in sets.items()
            if is_benchmark(name) is wanted
        )
        for first, second in (header, *rows):
            console.print(first, highlight=False, markup=False, soft_wrap=True)
            console.print(second, highlight=False, markup=False, soft_wrap=True, style="dim")
        console.print()
    console.print(f"here means {store / 'data'}/<set>.jsonl", highlight=False, soft_wrap=True)
    console.print("tokensweep data fetch SET downloads one; data.path=FILE gives your own", highlight=False)


def _facts(source: JsonlProblems, file: Path) -> tuple[str, str]:
    """The two lines of a set."""
    count = "" if source.num_problems is None else source.num_problems
    return (
        _ROW.format(source.name, count, source.date or "unknown", "yes" if file.is_file() else "no"),
        f"  {source.hub}  {source.license or 'unknown'}  {source.checked or 'not verified'}",
    )


def _wanted(names: Sequence[str], *, revision: str | None) -> list[JsonlProblems]:
    """The known sets of these names, at another commit if one is given."""
    sets = known_sets()
    for name in names:
        if name not in sets:
            raise ValueError(f"no set {name!r}: known are {', '.join(sets)}")
    if revision and len(names) > 1:
        raise ValueError(f"revision={revision} is a commit of one dataset, got {len(names)} sets: fetch one")
    return [replace(sets[name], revision=revision) if revision else sets[name] for name in names]


def _fetch(
    sets: Sequence[JsonlProblems],
    store: Path,
    folder: Path | None,
    *,
    force: bool,
    download: Download,
    console: Console,
) -> None:
    if folder is None:
        make_store(store)
    for source in sets:
        name = check_name(source.name, what="the name of a problem set")
        target = folder / f"{name}.jsonl" if folder else default_file(store, name)
        with console.status(f"{source.name}: downloading from {source.hub}"):
            fetched = fetch(source, target, force=force, download=download)
        for line in (f"{source.name}  {fetched.told}", f"  {fetched.file}", f"  {source.note}"):
            if line.strip():
                console.print(line, highlight=False, markup=False, soft_wrap=True)
