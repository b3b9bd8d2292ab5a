"""What the claims of a planned sweep can find out, printed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from tokensweep.entries import merge_entries
from tokensweep.identity import read_json
from tokensweep.plan import Plan
from tokensweep_analysis.claims import arms_named, parse_claims
from tokensweep_analysis.metrics import AVERAGE
from tokensweep_analysis.wording import detected

if TYPE_CHECKING:
    from tokensweep_analysis.arms import Arm
    from tokensweep_analysis.arms import Cell as Place
    from tokensweep_analysis.layout import Cell
    from tokensweep_analysis.planning import Planned, Prospect
    from tokensweep_analysis.power import Advice


def show_outlook(plan: Plan, console: Console) -> None:
    """Per claim the smallest difference that the plan detects, and what to add where that is too coarse."""
    arms = {entry["arm"] for entry in plan.entries} | arms_named(plan.sweep.claims)
    claims = parse_claims(plan.sweep.claims, arms=arms)
    if not claims:
        return
    from tokensweep_analysis.planning import prospects

    found = prospects(claims, planned_arms(plan), finished=_finished(plan))
    console.print()
    if with_figures := [each for each in found if each.advice]:
        console.print(_tabulated(with_figures))
        console.print()
    for line in (*_without_figure(found), *_explained(found)):
        console.print(line, highlight=False, markup=False)


def planned_arms(plan: Plan) -> Planned:
    """Seeds, questions and samples by setting and arm."""
    from tokensweep_analysis.planning import PlannedArm

    runs = {run.run_id: run for run in plan.runs}
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in plan.entries:
        cells.setdefault((entry["setting"], entry["arm"]), []).append(entry)
    return {
        cell: PlannedArm(
            seeds=tuple(int(entry["seed"]) for entry in own),
            questions={each["suite"]: each["num_questions"] for each in runs[own[0]["run_id"]].evals},
            samples={each["suite"]: each["num_samples"] for each in runs[own[0]["run_id"]].evals},
            models=frozenset(entry["model"] for entry in own),
            data=frozenset(entry["data"] for entry in own),
        )
        for cell, own in cells.items()
    }


def _finished(plan: Plan) -> Mapping[Place, Arm]:
    """The arms of this plan as far as they have run, whichever sweep ran them.

    Where a run is still to do, one that this sweep had before in its place stands for it, as long as its arm
    means the same: a run of other code, or of a seed that is not planned now.
    """
    path = plan.sweep_dir / "sweep.json"
    before = read_json(path)["runs"] if path.is_file() else []
    meaning = {(entry["setting"], entry["arm"]): entry["overrides"] for entry in plan.entries}
    same = [e for e in before if meaning.get((e["setting"], e["arm"])) == e["overrides"]]
    missing = {run.run_id for run in plan.missing()}
    done = [entry for entry in plan.entries if entry["run_id"] not in missing]
    if not same and not done:
        return {}
    from tokensweep_analysis.arms import gather
    from tokensweep_analysis.loading import load_runs

    entries = merge_entries(same, done)
    return gather(entries, load_runs([plan.store / "runs" / entry["run_id"] for entry in entries]))


def _tabulated(found: list[Prospect]) -> RenderableType:
    """The claims that have figures."""
    from tokensweep_analysis.layout import Cell, Column, FittedTable
    from tokensweep_analysis.sections import column

    several = len({each.setting for each in found}) > 1
    advice = [each.advice for each in found if each.advice]
    columns = [
        Column(Cell(("claim",)), tuple(Cell(_named(each, several=several)) for each in found)),
        column("size", [_points(each.size) for each in found]),
        Column(Cell(("detects",)), tuple(_detects(each) for each in found)),
        Column(Cell(("2 more", "seeds")), tuple(Cell((detected(a.two_more_seeds),)) for a in advice)),
        Column(Cell(("2 x", "questions")), tuple(Cell((detected(a.twice_the_questions),)) for a in advice)),
        Column(Cell(("2 x", "samples")), tuple(Cell((detected(a.twice_the_samples),)) for a in advice)),
        column("add", [each.to_add for each in found]),
    ]
    return Group(Text("What the claims can detect, in points", style="bold"), FittedTable(tuple(columns)))


def _named(each: Prospect, *, several: bool) -> tuple[str, ...]:
    """The claim, and its setting where there are several."""
    return (f"{each.claim.id},", each.setting) if several else (each.claim.id,)


def _without_figure(found: list[Prospect]) -> list[str]:
    """Claims that this plan cannot decide or has no figure for, those of one reason together."""
    reasons: dict[str, dict[str, None]] = {}
    of_claim: dict[str, set[str]] = {}
    for each in found:
        of_claim.setdefault(each.claim.id, set()).add(each.obstacle or each.remark)
    for each in found:
        if reason := each.obstacle or each.remark:
            differs = len(of_claim[each.claim.id]) > 1  # from what another setting says of the claim
            name = f"{each.claim.id} in {each.setting}" if differs else each.claim.id
            reasons.setdefault(reason, {})[name] = None
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _detects(each: Prospect) -> Cell:
    """The figure, with the range that other variances would give."""
    from tokensweep_analysis.layout import Cell

    assert each.advice is not None
    figure = detected(each.advice.detectable)
    if each.lowest is None:
        return Cell((figure,))
    return Cell((figure, f"({detected(each.lowest)}, {detected(each.highest)})"))


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * abs(share):.1f}"


def _is_raised(advice: Advice) -> bool:
    """Whether more questions or samples give a larger figure, as printed."""
    more = (advice.twice_the_questions, advice.twice_the_samples)
    now = advice.detectable
    return any(each is not None and each > now and detected(each) != detected(now) for each in more)


def _explained(found: list[Prospect]) -> list[str]:
    """What the numbers of the table rest on."""
    if not any(each.advice for each in found):
        return []
    figures = [each for each in found if each.advice]
    others = [each for each in figures if each.claim.metric != AVERAGE]
    lines = [
        "Detects is the smallest true difference that is found in 80 of 100 repetitions, at the first step, "
        "the hardest, of Holm's adjustment over the claims that it tests; the report gives it at the step "
        "that a claim has reached. Add is what lowers it most, whatever it costs, or what a verdict needs. "
        "With one seed per arm the figure is about two checkpoints; with two more it is about the method, "
        "and may be larger."
    ]
    if all(each.is_measured for each in figures):
        lines.append("Variances are those of the finished runs.")
    else:
        lines.append(
            "Variances are assumed (AIME-like questions, seed SD 1.1 points; in brackets the lowest and the "
            "highest figure with 0.5 to 2.2), or those of the finished runs where both arms have two. The "
            "assumed ones are of language models of billions of parameters; tiny models vary more between "
            "seeds, so at scale tiny such figures are too small."
        )
    if any(_is_raised(each.advice) for each in figures if each.advice):
        lines.append(
            "Twice the questions or samples can raise a figure: what is left is mostly variation between "
            "seeds, with fewer degrees of freedom."
        )
    if not all(each.is_measured for each in others):
        lines.append(
            "Those assumed of pass@k, pass^k and cover@tau are what the same effects do to questions with "
            "accuracies of Beta(0.3, 0.7) where a method moves the log-odds of all questions alike."
        )
    if any(each.is_measured for each in others):
        lines.append(
            "Finished runs do not tell how many samples pass@k, pass^k, maj@k and cover@tau need, so there "
            "is no figure for twice the samples."
        )
    return lines
