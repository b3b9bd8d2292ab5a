"""``tokensweep data``: which problem sets there are, whether a file is what it should be, the download."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokensweep.compose import register_components
from tokensweep.data.catalogue import default_file, is_benchmark, known_sets
from tokensweep.data.fetch import Download, fetch, from_hub
from tokensweep.paths import default_store
from tokensweep.problems.checks import describe_answers, findings
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.overlap import COMPARED, shared
from tokensweep.problems.protocol import Problem

_DESCRIPTION = """\
Problem sets are local JSONL files with id, problem and answer on every line. Runs read nothing else, so the
nodes of a cluster need no internet: fetch on a machine that has it, copy <store>/data, run anywhere.

  tokensweep data list                          known sets: origin, licence, and whether the file is here
  tokensweep data fetch aime25 math500          download, convert and check; writes <store>/data/<name>.jsonl
  tokensweep data fetch dapo_math_17k to=.      write into another folder
  tokensweep data check aime25 my_set.jsonl     count, answers, repeated problems, overlap with other sets

data=NAME and eval=NAME find <store>/data/<name>.jsonl by themselves; data.path=FILE and eval.path=FILE take
another file. tokensweep ships no problems; mind the licence of each set. Downloads were tested against a fake
of the hub only.
"""
_KEYS = ("store=", "to=", "force=", "revision=")
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
        _check(options.names, store, console)
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
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | fetch | check")
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
        description="Check sets or files; exit code 1 when one is wrong or training and evaluation overlap.",
        epilog=f"A file that is named like a known set must hold that set. {_EPILOG}",
    )
    checking.add_argument("names", nargs="+", metavar="NAME|FILE")
    return parser


def _list(store: Path, console: Console) -> None:
    sets = known_sets()
    for kind, wanted in (("benchmarks", True), ("training sets", False)):
        table = Table(box=None, title=kind, title_justify="left", title_style="bold", pad_edge=False)
        for column in ("set", "problems", "public", "here"):
            table.add_column(column, no_wrap=True, justify="right" if column == "problems" else "left")
        for column in ("hub dataset", "licence", "facts checked"):
            table.add_column(column, overflow="fold")
        for name, source in sets.items():
            if is_benchmark(name) is wanted:
                table.add_row(name, *_facts(source, default_file(store, name)))
        console.print(table, "")
    console.print(f"here means {store / 'data'}/<set>.jsonl", highlight=False, soft_wrap=True)
    console.print("tokensweep data fetch SET downloads one; data.path=FILE gives your own", highlight=False)


def _facts(source: JsonlProblems, file: Path) -> tuple[str, ...]:
    return (
        "" if source.num_problems is None else str(source.num_problems),
        source.date or "unknown",
        "yes" if file.is_file() else "no",
        source.hub,
        source.license or "unknown",
        source.checked or "not verified",
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
    for source in sets:
        target = folder / f"{source.name}.jsonl" if folder else default_file(store, source.name)
        with console.status(f"{source.name}: downloading from {source.hub}"):
            fetched = fetch(source, target, force=force, download=download)
        for line in (f"{source.name}  {fetched.told}", f"  {fetched.file}", f"  {source.note}"):
            if line.strip():
                console.print(line, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class _Set:
    """A file that was read."""

    name: str
    source: JsonlProblems
    problems: tuple[Problem, ...]
    benchmark: bool | None  # None: a file of the user's own
    asked: bool  # named on the command line, not only compared with


def _check(names: Sequence[str], store: Path, console: Console) -> None:
    known = known_sets()
    asked = [_read(_source(name, store, known), asked=True) for name in names]
    others = [
        _read(replace(source, path=str(default_file(store, name))), asked=False)
        for name, source in known.items()
        if default_file(store, name).is_file() and name not in {each.name for each in asked}
    ]
    table = Table("set", "problems", "answers", "findings")
    wrong = 0
    for each in asked:
        found = findings(each.problems, each.source.expected)
        wrong += len(found)
        pinned = "sound, answers as known" if each.source.answers else "sound"
        table.add_row(
            each.name,
            str(len(each.problems)),
            describe_answers(each.problems),
            "; ".join(found) or (pinned if each.source.hub else "sound (a set of your own)"),
        )
    console.print(table)
    for each in asked:
        if each.source.note:
            console.print(f"{each.name}: {each.source.note}", highlight=False, markup=False)
    wrong += _show_overlaps([*asked, *others], console)
    if wrong:
        raise SystemExit(1)


def _source(word: str, store: Path, known: Mapping[str, JsonlProblems]) -> JsonlProblems:
    """A known set by name, or a file, which is held to be the set it is named like."""
    if word in known:
        return replace(known[word], path=str(default_file(store, word)))
    file = Path(word).expanduser().resolve()
    return replace(known.get(file.stem, JsonlProblems(name=file.stem)), path=str(file))


def _read(source: JsonlProblems, *, asked: bool) -> _Set:
    benchmark = is_benchmark(source.name) if source.hub else None
    return _Set(
        name=source.name, source=source, problems=source.whole_file(), benchmark=benchmark, asked=asked
    )


def _show_overlaps(sets: Sequence[_Set], console: Console) -> int:
    """Print the overlap of every training set with every benchmark; how many pairs overlap."""
    pairs = [
        (a, b)
        for a, b in combinations(sets, 2)
        if (a.asked or b.asked) and (a.benchmark != b.benchmark or a.benchmark is None)
    ]
    bad = 0
    for a, b in pairs:
        both = shared(a.problems, b.problems)
        if both:
            bad += 1
            ids = ", ".join(problem.id for problem in both[:3])
            console.print(f"{a.name} and {b.name} share {len(both)} problems: {ids}", highlight=False)
    if pairs and not bad:
        console.print(f"no copy found in {len(pairs)} pairs of training and evaluation files")
    if pairs:
        console.print(f"compared: {COMPARED}; reworded problems are not found", highlight=False)
    return bad
