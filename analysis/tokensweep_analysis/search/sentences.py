"""What a report says of a search in words. For terminal, Markdown and page."""

from __future__ import annotations

from collections.abc import Iterator

from tokensweep_analysis.intervals import ONE_CHECKPOINT
from tokensweep_analysis.search.ranking import ACCURACY
from tokensweep_analysis.search.stored import State, Trial
from tokensweep_analysis.search.summary import Summary
from tokensweep_analysis.search.wording import Unit
from tokensweep_analysis.sections import run_facts
from tokensweep_analysis.wording import counted

_MOST_TOP = 3  # trials that a confirmation is proposed for


def told(summary: Summary) -> Iterator[str]:
    """How far the search is, and how it chooses."""
    counts = summary.counts
    pruned = [each.pruned_step for each in summary.trials(State.pruned) if each.pruned_step is not None]
    steps = _steps(min(pruned), max(pruned)) if pruned else ""
    yield (
        f"{counted(counts.planned, 'trial')} planned, {counts.told} told: {counts.complete} complete, "
        f"{counts.pruned} pruned{steps}, {counts.failed} failed; {counts.running} running, "
        f"{counts.waiting} waiting."
    )
    if counts.uncounted:
        yield f"{counts.uncounted} more do not count: repetitions, or tried again under another number."
    study = summary.study
    goals = " and ".join(f"{goal.direction} {goal.name}" for goal in study.goals)
    yield f"Sampler {study.sampler}, pruner {study.pruner}, to {goals}."


def _steps(first: int, last: int) -> str:
    return f" (at step {first})" if first == last else f" (at steps {first} to {last})"


def selection(summary: Summary) -> Iterator[str]:
    """What the best values are worth: too good, by how much, and what gives a verdict."""
    ranked = summary.ranked
    if not ranked:
        yield "No trial is complete yet, so there is nothing to rank."
        return
    if len(summary.study.goals) > 1:
        yield from _of_front(summary)
    else:
        yield from _of_best(summary, ranked[0])
    if summary.evidence.shrunk is None:
        yield f"By how much is not estimated: {summary.evidence.reason}."
    elif summary.evidence.is_one_seed:
        yield (
            "Each trial has one training seed, and the luck of that seed is not in the noise, so even the "
            "shrunk value is too high."
        )
    yield f"It is no verdict{_verdict(summary)}."
    yield from _remarks(summary)


def _verdict(summary: Summary) -> str:
    """What gives one: a confirmation, which is about accuracy."""
    if all(goal.name != ACCURACY for goal in summary.study.goals):
        return "; tokensweep confirm gives one where accuracy is among the objectives"
    candidates = len(summary.front or summary.ranked)
    return (
        f": tokensweep confirm {summary.comparison.name} --top {min(_MOST_TOP, candidates)} gives one, on "
        "fresh seeds and questions"
    )


def _of_best(summary: Summary, best: Trial) -> Iterator[str]:
    goal, unit = summary.study.goals[0], summary.units[0]
    assert best.values is not None
    end, bias = ("maximum", "too high") if goal.sign > 0 else ("minimum", "too low")
    yield f"Found: {best.arm}, {goal.name} {unit.shown(best.values[0])}."
    yield from _shrunk(summary, best, unit)
    yield f"The {end} of a search is {bias} by selection: it was picked for its luck too."


def _of_front(summary: Summary) -> Iterator[str]:
    """No single best, and the most accurate of the front in particular."""
    yield (
        f"On the front: {len(summary.front)} of {counted(len(summary.ranked), 'complete trial')}, each of "
        "which no other beats in one objective without being worse in another. There is no single best."
    )
    if summary.evidence.shrunk is not None:
        place = [goal.name for goal in summary.study.goals].index(ACCURACY)
        best = max(
            (each for each in summary.ranked if each.number in summary.front),
            key=lambda each: each.values[place] if each.values else 0.0,
        )
        assert best.values is not None
        yield f"The most accurate: {best.arm}, {summary.units[place].shown(best.values[place])}."
        yield from _shrunk(summary, best, summary.units[place])
    yield "What a search picks is too good by selection: it was picked for its luck too."


def _shrunk(summary: Summary, best: Trial, unit: Unit) -> Iterator[str]:
    evidence = summary.evidence
    if evidence.shrunk is not None and best.number in evidence.values:
        yield (
            f"Shrunk towards the mean of all, {unit.shown(evidence.shrunk.mean)}, it is "
            f"{unit.shown(evidence.values[best.number])}: the noise of its value has a standard error of "
            f"{unit.shown(evidence.noise[best.number])}, true values a standard deviation of "
            f"{unit.shown(evidence.shrunk.spread)}."
        )
        if evidence.shrunk.spread == 0:
            yield "The trials differ no more than their noise explains."


def _remarks(summary: Summary) -> Iterator[str]:
    """What is odd about the numbers behind the shrinkage."""
    evidence = summary.evidence
    if evidence.shrunk is None:
        return
    if evidence.left_out:
        yield f"Not shrunk, without scores of the same questions: {_listed(evidence.left_out)}."
    if evidence.graded_again:
        yield (
            f"Stored samples of {_listed(evidence.graded_again)} say something else than the search was "
            "told: they were graded again, or some are gone."
        )


def _listed(arms: tuple[str, ...], most: int = 5) -> str:
    more = len(arms) - most
    return ", ".join(arms[:most]) + (f" and {more} more" if more > 0 else "")


def parameters(summary: Summary) -> Iterator[str]:
    """What the importance of parameters is, or why it is not shown."""
    importance = summary.importance
    if importance.reason:
        yield f"Importance of parameters is not shown: {importance.reason}."
        return
    yield (
        "Importance by PED-ANOVA: how much a parameter tells the best "
        f"{importance.num_best} of {counted(importance.num_trials, 'complete trial')} from the "
        "others; shares add up to 100. It is about the trials that the sampler chose, and no effect size."
    )
    names = summary.names
    some = [
        f"{names[key]} for {number}"
        for key, number in importance.existed.items()
        if number < importance.num_trials
    ]
    if some:
        yield f"Of {importance.num_trials} complete trials a parameter existed in: {', '.join(some)}."


def facts(summary: Summary) -> Iterator[str]:
    """What was run for the numbers, and what must be known of some of them."""
    done = [row for row in summary.comparison.rows if row.results]
    if done:
        yield run_facts(summary.comparison, done)
    for caution in dict.fromkeys(row.caution for row in done if row.caution):
        yield f"Contamination: {caution}."
    remarks: dict[str, dict[str, None]] = {}
    for row in done:
        for part in row.remark.split("; "):
            if part not in ("", ONE_CHECKPOINT):  # that is about intervals, which the ranking does not have
                remarks.setdefault(part, {})[row.arm] = None
    yield from (f"{', '.join(arms)}: {remark}." for remark, arms in remarks.items())
