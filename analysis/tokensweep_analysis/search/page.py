"""The parts of a page that are about a search: table, shrunk maximum, plots with their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from tokensweep_analysis.page.markup import Html, join, tag
from tokensweep_analysis.page.numbers import NOTHING
from tokensweep_analysis.page.svg import Look, looks, swatch
from tokensweep_analysis.page.tables import Column, data_table
from tokensweep_analysis.search import figures, sentences
from tokensweep_analysis.search.ranking import ACCURACY
from tokensweep_analysis.search.stored import State, Trial
from tokensweep_analysis.search.summary import MOST_SHOWN, Summary
from tokensweep_analysis.search.wording import plain, written
from tokensweep_analysis.wording import counted

_MOST_ROWS = 1000  # of the table of all trials
Part = tuple[str, str, Html]  # id, heading, content


def parts(summary: Summary) -> Iterator[Part]:
    """What a page says of a search, in the order in which it is read."""
    yield "search", "Search", _found(summary)
    yield "history", "History", _history(summary)
    if len(summary.study.goals) > 1:
        yield "front", "Front", _front(summary)
    yield "parameters", "Parameters", _parallel(summary)
    yield "importance", "Importance", _importance(summary)


def _found(summary: Summary) -> Html:
    """How far it is, what was found, what that is worth."""
    said = [
        tag("p", " ".join(sentences.told(summary))),
        tag("p", " ".join(sentences.selection(summary))),
        tag("p", " ".join(sentences.facts(summary)), class_="note"),
    ]
    if summary.ranked:
        said.append(_table(summary, summary.shown, caption="The best trials", key="best", is_explained=True))
    if len(summary.ranked) > MOST_SHOWN:
        note = f"The best {MOST_SHOWN} of {len(summary.ranked)} complete trials."
        said.append(tag("p", note, class_="note"))
    if failed := list(summary.trials(State.failed)):
        said.append(_failed(failed))
    return join(said)


def _table(
    summary: Summary, trials: Sequence[Trial], *, caption: str, key: str, is_explained: bool = False
) -> Html:
    """A row per trial with what it has."""
    columns = [Column("trial", [each.arm for each in trials])]
    if any(each.state is not State.complete for each in trials):
        columns.append(Column("state", [each.state.value for each in trials], is_text=True))
    for place, (goal, unit) in enumerate(zip(summary.study.goals, summary.units, strict=True)):
        values = [
            unit.shown(each.values[place]) if each.state is State.complete and each.values else NOTHING
            for each in trials
        ]
        columns.append(Column(goal.name.replace("_", " "), values, hint=unit.label))
        if goal.name == ACCURACY and summary.evidence.shrunk:
            for name, found, hint in (
                ("shrunk", summary.evidence.values, "drawn towards the mean of all trials by its noise"),
                ("noise", summary.evidence.noise, "standard error of the accuracy, against other trials"),
            ):
                cells = [unit.shown(found[t.number]) if t.number in found else NOTHING for t in trials]
                columns.append(Column(name, cells, hint=hint))
    if summary.front:
        columns.append(
            Column(
                "front",
                ["yes" if each.number in summary.front else "no" for each in trials],
                hint="no other is as good in all objectives and better in one",
            )
        )
    columns += [
        Column(
            short,
            [written(each.params[name]) if name in each.params else NOTHING for each in trials],
            hint=name if name != short else "",
            is_text=any(isinstance(each.params.get(name), str) for each in trials),
        )
        for name, short in summary.names.items()
    ]
    if any(each.pruned_step is not None for each in trials):
        steps = [NOTHING if each.pruned_step is None else str(each.pruned_step) for each in trials]
        columns.append(Column("pruned at step", steps))
    columns.append(Column("runs", [str(len(each.runs)) for each in trials], hint="one per training seed"))
    return data_table(columns, caption=caption, key=key, is_sortable=True, is_explained=is_explained)


def _failed(trials: Sequence[Trial]) -> Html:
    """Trials that failed, and why."""
    columns = [
        Column("trial", [each.arm for each in trials]),
        Column("runs", [" ".join(each.runs.values()) or NOTHING for each in trials], is_text=True),
        Column("reason", [plain(each.first_reason) for each in trials], is_text=True),
    ]
    return data_table(columns, caption="Failed trials", key="failed", is_sortable=True)


def _history(summary: Summary) -> Html:
    if not summary.ranked:
        return _nothing("No trial is complete yet.")
    note = (
        "A dot per complete trial. Line: the best up to each, which rises by luck alone as trials go on. "
        "Crosses at the bottom: trials that were pruned, which have no value."
    )
    panels = [
        figures.history_panel(summary, place, key=f"history{place}")
        for place in range(len(summary.study.goals))
    ]
    listed = [each for each in summary.study.trials if each.counted and each.params]
    table = _table(
        summary,
        listed[:_MOST_ROWS],
        caption="Trials by number" if len(listed) <= _MOST_ROWS else f"The first {_MOST_ROWS:,} trials",
        key="trials",
    )
    return join(
        [
            tag("p", note, class_="note"),
            tag("div", *panels, class_="panels"),
            tag("details", tag("summary", "The numbers as tables: trials"), table),
        ],
        "\n",
    )


def _front(summary: Summary) -> Html:
    if not summary.ranked:
        return _nothing("No trial is complete yet.")
    pairs = list(combinations(range(len(summary.study.goals)), 2))
    marked = _looks(summary)
    panels = [
        figures.front_panel(summary, first, second, marked, key=f"front{place}")
        for place, (first, second) in enumerate(pairs)
    ]
    on_front = [each for each in summary.ranked if each.number in summary.front]
    note = (
        "Faint: complete trials that another beats. The front is picked for its luck too: trials near it may "
        "be as good."
    )
    return join(
        [
            tag("p", note, class_="note"),
            _legend(summary, marked),
            tag("div", *panels, class_="panels"),
            tag(
                "details",
                tag("summary", "The numbers as tables: front"),
                _table(summary, on_front, caption="The front", key="front-numbers"),
            ),
        ],
        "\n",
    )


def _parallel(summary: Summary) -> Html:
    pruned = list(summary.trials(State.pruned))
    if not summary.ranked and not pruned:
        return _nothing("No trial is complete or pruned yet.")
    marked = _looks(summary)
    note = (
        "A line per trial through its values, choices from the first at the bottom to the last. Faint: the "
        "other complete trials; faint and dashed: pruned ones, which end before the result."
    )
    most = figures.MOST_FAINT
    if max(len(summary.ranked) - len(marked), len(pruned)) > most:
        note += f" Of each kind at most {most} are drawn, the best and the newest."
    shown = [each for each in summary.ranked if each.number in marked]
    numbers = _table(summary, [*shown, *pruned][:_MOST_ROWS], caption="Marked and pruned", key="parallel")
    return join(
        [
            tag("p", note, class_="note"),
            *([_legend(summary, marked)] if marked else []),
            figures.parallel_panel(summary, marked, key="parallel"),
            tag("details", tag("summary", "The numbers as tables: parameters"), numbers),
        ],
        "\n",
    )


def _importance(summary: Summary) -> Html:
    said = tag("p", " ".join(sentences.parameters(summary)), class_="note")
    if not summary.importance.shares:
        return said
    shares, existed = summary.importance.shares, summary.importance.existed
    columns = [
        Column("parameter", list(shares)),
        Column("importance %", [f"{100 * share:.1f}" for share in shares.values()]),
        Column("trials", [str(existed[key]) for key in shares], hint="complete trials that had it"),
    ]
    table = data_table(columns, caption="Importance of parameters", key="shares", is_explained=True)
    panels = tag("div", figures.importance_panel(summary, key="importance"), class_="panels")
    return join(
        [said, panels, tag("details", tag("summary", "The numbers as tables: importance"), table)], "\n"
    )


def _looks(summary: Summary) -> dict[int, Look]:
    """A look for the best few, or for the first few of the front."""
    best = [each for each in summary.ranked if not summary.front or each.number in summary.front]
    marked = best[: figures.MOST_MARKED]
    known = looks([each.arm for each in marked], None)
    return {each.number: known[each.arm] for each in marked}


def _legend(summary: Summary, marked: dict[int, Look]) -> Html:
    entries = [
        tag("li", swatch(marked[each.number]), tag("span", _entry(each, summary)))
        for each in summary.ranked
        if each.number in marked
    ]
    return tag("ul", *entries, class_="legend", aria_label=counted(len(entries), "marked trial"))


def _entry(trial: Trial, summary: Summary) -> str:
    values = trial.values or ()
    told = ", ".join(unit.shown(value) for unit, value in zip(summary.units, values, strict=False))
    return f"{trial.arm}: {told}"


def _nothing(sentence: str) -> Html:
    return tag("p", sentence, class_="note")
