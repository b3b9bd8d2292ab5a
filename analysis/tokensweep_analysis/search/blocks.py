"""The tables of a search as columns of text. For terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokensweep_analysis.layout import Cell, Column
from tokensweep_analysis.search import sentences
from tokensweep_analysis.search.ranking import ACCURACY
from tokensweep_analysis.search.stored import State
from tokensweep_analysis.search.summary import MOST_SHOWN, Summary
from tokensweep_analysis.search.wording import plain, unit_of, written_of
from tokensweep_analysis.wording import NOTHING

_BAR = 20  # letters of the longest bar
_ALIAS = "{short} is {key}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A heading, a table, and what is said below it, a paragraph each."""

    title: str
    columns: tuple[Column, ...] = ()
    paragraphs: tuple[str, ...] = ()


def blocks_of(summary: Summary) -> Iterator[Block]:
    """What a report says of a search, the ranking first."""
    yield Block(
        title="Search",
        columns=_ranking(summary),
        paragraphs=tuple(
            " ".join(each)
            for each in (
                _below(summary),
                sentences.told(summary),
                sentences.selection(summary),
            )
        ),
    )
    importance = summary.importance
    yield Block(
        title="Parameters",
        columns=_importance(summary) if importance.shares else (),
        paragraphs=(" ".join(sentences.parameters(summary)),),
    )
    if failed := _failed(summary):
        yield Block(title="Failed trials", paragraphs=tuple(failed))
    yield Block(
        title="What the numbers are", paragraphs=(" ".join(sentences.facts(summary)), summary.comparison.note)
    )


def _column(header: str, cells: Sequence[str]) -> Column:
    return Column(Cell((header,)), tuple(Cell((cell,)) for cell in cells))


def _ranking(summary: Summary) -> tuple[Column, ...]:
    """The best trials, at most ten; nothing before one is complete."""
    shown = summary.shown
    if not shown:
        return ()
    columns = [_column("trial", [each.arm for each in shown])]
    for place, (goal, unit) in enumerate(zip(summary.study.goals, summary.units, strict=True)):
        values = [unit.shown(each.values[place]) for each in shown if each.values is not None]
        columns.append(_column(goal.name.replace("_", " "), values))
        if goal.name == ACCURACY and summary.evidence.shrunk:
            found = summary.evidence.values
            columns.append(
                _column(
                    "shrunk",
                    [unit.shown(found[t.number]) if t.number in found else NOTHING for t in shown],
                )
            )
    if summary.front:
        columns.append(_column("front", ["yes" if t.number in summary.front else "no" for t in shown]))
    columns += [
        _column(short, [written_of(each.params, key) for each in shown])
        for key, short in summary.names.items()
    ]
    columns.append(_column("runs", [str(len(each.runs)) for each in shown]))
    return tuple(columns)


def _below(summary: Summary) -> Iterator[str]:
    """What the table leaves out, and what its headers stand for."""
    if len(summary.ranked) > MOST_SHOWN:
        yield f"The best {MOST_SHOWN} of {len(summary.ranked)} complete trials; search.csv has all."
    if summary.shown and any(goal.name == ACCURACY for goal in summary.study.goals):
        yield f"Accuracy is in points: {unit_of(ACCURACY).shown(1.0)} is all right."
    longer = [_ALIAS.format(short=short, key=key) for key, short in summary.names.items() if short != key]
    if longer:
        yield f"{'; '.join(longer)}."


def _importance(summary: Summary) -> tuple[Column, ...]:
    importance = summary.importance
    largest = max(importance.shares.values())
    return (
        _column("parameter", [summary.names[key] for key in importance.shares]),
        _column("importance %", [f"{100 * share:.1f}" for share in importance.shares.values()]),
        _column("", [_bar(share / largest) for share in importance.shares.values()]),
        _column("trials", [str(importance.existed[key]) for key in importance.shares]),
    )


def _bar(part: float) -> str:
    """A bar of which ``part`` is filled."""
    filled = round(_BAR * part)
    return "█" * filled + "░" * (_BAR - filled)


def _failed(summary: Summary) -> list[str]:
    """A line per failed trial, the newest ones."""
    failed = list(summary.trials(State.failed))
    lines = [
        f"{each.arm}, run {' '.join(each.runs.values()) or 'not begun'}: {plain(each.first_reason)}"
        for each in failed
    ]
    more = len(failed) - MOST_SHOWN
    return [*([f"{more} earlier ones are in search.csv."] if more > 0 else []), *lines[-MOST_SHOWN:]]
