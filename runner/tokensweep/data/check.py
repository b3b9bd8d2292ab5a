"""``tokensweep data check``: whether files hold what a run takes, and which problems they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokensweep.data.catalogue import default_file, is_benchmark, is_procedural, known_sets
from tokensweep.problems.checks import describe_answers, findings
from tokensweep.problems.grading import unreadable_golds
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.problems.overlap import COMPARED, shared
from tokensweep.problems.protocol import Problem

_SHOWN = 3  # ids in a message
_PROCEDURAL = "procedural: its problems are made, not read from a file; there is nothing to check"


@dataclass(frozen=True, kw_only=True)
class _Set:
    """A file that was read, or the reason why it could not be."""

    source: JsonlProblems
    benchmark: bool | None  # None: a file of the user's own
    asked: bool  # named on the command line, not only compared with
    problems: tuple[Problem, ...] = ()
    failure: str = ""

    @property
    def name(self) -> str:
        return self.source.name


def check_sets(words: Sequence[str], *, store: Path, console: Console) -> bool:
    """Print what is known of sets and files, and what they share; whether nothing is wrong.

    Every one is checked, whatever is found in another; sets in the store are compared with as well.
    """
    known = known_sets()
    made = [word for word in words if is_procedural(word) and not Path(word).is_file()]
    asked = [_asked(word, store, known) for word in words if word not in made]
    others = [
        _read(replace(source, path=str(default_file(store, name))), asked=False)
        for name, source in known.items()
        if default_file(store, name).is_file() and name not in {each.name for each in asked}
    ]
    table = Table("set", "problems", "answers", "findings")
    for word in made:
        table.add_row(word, "", "", _PROCEDURAL)
    sound = True
    for each in asked:
        with console.status(f"{each.name}: checking its answers"):
            wrong = _wrong(each)
        sound = sound and not wrong
        count, answers = str(len(each.problems) or ""), describe_answers(each.problems)
        table.add_row(Text(each.name), count, answers, Text("; ".join(wrong) or _verdict(each.source)))
    console.print(table)
    for line in (*_notes(asked), *_not_compared(others)):
        console.print(line, highlight=False, markup=False)
    return _show_overlaps([each for each in (*asked, *others) if not each.failure], console) and sound


def _asked(word: str, store: Path, known: Mapping[str, JsonlProblems]) -> _Set:
    """A known set by name, or a file, which is held to be the set it is named like."""
    file = default_file(store, word) if word in known else Path(word).expanduser().resolve()
    source = replace(known.get(file.stem, JsonlProblems(name=file.stem)), path=str(file))
    if file.is_file():
        return _read(source, asked=True)
    if word in known:
        failure = f"not here: tokensweep data fetch {word} downloads it to {file}"
    else:
        failure = (
            f"{word} is neither a file nor a known set: give a JSONL file, or a name of tokensweep data list"
        )
    return _Set(source=source, benchmark=None, asked=True, failure=failure)


def _read(source: JsonlProblems, *, asked: bool) -> _Set:
    found = _Set(source=source, benchmark=is_benchmark(source.name) if source.hub else None, asked=asked)
    try:
        return replace(found, problems=source.whole_file())
    except (ValueError, OSError) as error:
        return replace(found, failure=str(error))


def _wrong(each: _Set) -> list[str]:
    """What a run would refuse the set for, a clause each."""
    if each.failure:
        return [each.failure]
    return [*findings(each.problems, each.source.expected), *_misread(each.problems)]


def _misread(problems: Sequence[Problem]) -> list[str]:
    wrong = unreadable_golds(problems)
    if not wrong:
        return []
    shown = ", ".join(f"{problem.answer!r} of {problem.id} ({reason})" for problem, reason in wrong[:_SHOWN])
    return [f"must have answers that verify against themselves, got {len(wrong)} others: {shown}"]


def _verdict(source: JsonlProblems) -> str:
    """What a set without findings may be said to be."""
    if not source.hub:
        return "sound (a set of your own)"
    return f"sound; answers {'as known' if source.answers else 'not compared'}, texts not compared"


def _notes(asked: Sequence[_Set]) -> list[str]:
    return [f"{each.name}: {each.source.note}" for each in asked if each.source.note]


def _not_compared(others: Sequence[_Set]) -> list[str]:
    return [f"{each.name} was not compared with: {each.failure}" for each in others if each.failure]


def _show_overlaps(sets: Sequence[_Set], console: Console) -> bool:
    """Print the overlap of every training set with every benchmark; whether no pair overlaps."""
    pairs = [
        (a, b)
        for a, b in combinations(sets, 2)
        if (a.asked or b.asked) and (a.benchmark != b.benchmark or a.benchmark is None)
    ]
    overlapping = 0
    for a, b in pairs:
        with console.status(f"comparing {a.name} with {b.name}"):
            both = shared(a.problems, b.problems)
        if both:
            overlapping += 1
            ids = ", ".join(problem.id for problem in both[:_SHOWN])
            line = f"{a.name} and {b.name} share {len(both)} problems: {ids}"
            console.print(line, highlight=False, markup=False)
    if pairs and not overlapping:
        console.print(f"no copy found in {len(pairs)} pairs of training and evaluation files")
    if pairs:
        console.print(f"compared: {COMPARED}; reworded problems are not found", highlight=False)
    return not overlapping
