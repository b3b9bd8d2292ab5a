"""An audit for the terminal: summary, slips by paper, what differences support. For ``tokensweep audit``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokensweep_analysis.published.audit import Audit
from tokensweep_analysis.published.beside import Pair
from tokensweep_analysis.published.finding import Finding, Rule, one_decimal
from tokensweep_analysis.published.support import ONE_RUN, Support, Verdict
from tokensweep_analysis.wording import counted

_MOST_LINES = 6  # of the file, named with a finding
_MAIN = 4  # differences per paper that are shown without --all
_RULES = {
    Rule.average: "printed averages that are not the mean of their cells",
    Rule.contradiction: "one number printed with two values",
    Rule.baseline: "baseline values that no row of their table has",
    Rule.grid: "values that no number of correct answers gives",
}
_UNITS = {
    Rule.average: "average",
    Rule.contradiction: "repeat",
    Rule.baseline: "baseline value",
    Rule.grid: "value",
}
_VERDICTS = {
    Verdict.supported: "supported",
    Verdict.supported_method: "by runs",
    Verdict.inconclusive: "inconclusive",
    Verdict.unknown: "not judged",
}
_OFF_GRID = "Off the grid: other questions, other samples, dropped answers, or a slip of the pen."
_SCENARIO = (
    "In points. The file has no spread, so 95 % intervals come from the central scenario: variances of "
    "questions, seeds and samples as measured or assumed for AIME-like sets. Detects: the smallest true "
    "difference that this protocol finds in 80 of 100 repetitions. Supported: for these checkpoints; by "
    "runs: for the method, where three or more training runs per arm are stated."
)


def render_audit(audit: Audit, *, show_all: bool = False) -> list[RenderableType]:
    """Summary, slips by paper, notes, and differences with what they support."""
    parts: list[RenderableType] = [render_summary(audit)]
    if audit.slips:
        off_grid = any(each.rule is Rule.grid for each in audit.slips)
        legend: list[RenderableType] = [Text(_OFF_GRID), ""] if off_grid else []
        parts.append(_titled("Slips", [*legend, *_by_paper(audit.slips)]))
    if audit.notes:
        hint = "" if show_all else f"{len(audit.notes)} in all; --all shows them"
        parts.append(_titled("Possible, but to know", _by_paper(audit.notes) if show_all else [Text(hint)]))
    if audit.supports:
        parts.append(_titled("What printed differences support", _supports(audit, show_all=show_all)))
    return parts


def render_summary(audit: Audit) -> RenderableType:
    """Rows, papers, what was checked and found by rule, and what could not be checked and why."""
    slips, notes = (Counter(each.rule for each in found) for found in (audit.slips, audit.notes))
    table = _table("rule", "slips", "notes", "checked")
    for rule, checked in audit.checked.items():
        table.add_row(
            f"{rule}: {_RULES[rule]}",
            str(slips[rule]),
            str(notes[rule]),
            counted(checked.num_checked, _UNITS[rule]),
        )
    lines = [
        f"  {count:>5} {'row ' if count == 1 else 'rows'}  {reason}"
        for each in audit.checked.values()
        for reason, count in each.skipped
    ]
    unknown = ", ".join(f"{name} ({count})" for name, count in audit.unknown_sizes)
    skipped: list[RenderableType] = [Text("Not checked"), *map(Text, lines), ""] if lines else []
    sizes: list[RenderableType] = [Text(f"Size unknown: {unknown}"), ""] if unknown else []
    head = ", ".join(
        [
            counted(len(audit.cells), "row"),
            counted(len(audit.sources), "paper"),
            counted(len(audit.supports), "printed difference"),
        ]
    )
    return Group(
        Text(f"{head}: {counted(len(audit.slips), 'slip')}", style="bold"),
        "",
        table,
        "",
        *skipped,
        *sizes,
    )


def render_pairs(pairs: Sequence[Pair], sweep: str) -> list[RenderableType]:
    """Comparable pairs with both numbers, and the others by what stands against them."""
    comparable = [pair for pair in pairs if pair.is_comparable]
    parts: list[RenderableType] = [_comparable(comparable), ""] if comparable else []
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        if not pair.is_comparable:
            groups.setdefault((_placed(pair), pair.cell.base_model, pair.cell.arm), []).append(pair)
    for (name, model, arm), own in groups.items():
        where = lines_text([pair.cell.line for pair in own])
        parts.append(Text(f"{name} beside {model}, {arm}; {where}"))
        parts.append(Padding(Text(f"not comparable: {_merged(own)}"), (0, 0, 0, 2)))
    count = f"{len(comparable)} of {len(pairs)} pairs are comparable"
    return [_titled(f"{sweep} beside the printed numbers: {count}", parts)]


def _comparable(pairs: Sequence[Pair]) -> Table:
    table = _table("comparable", "printed", "own", "95 % interval", "estimand, runs")
    for pair in pairs:
        own, cell = pair.own, pair.cell
        if own is None:
            continue
        name = f"{_placed(pair)}, {cell.benchmark_text} {cell.metric}, line {cell.line}"
        interval = f"[{one_decimal(100 * own.low)}, {one_decimal(100 * own.high)}]"
        table.add_row(
            name, cell.value.text, f"{100 * own.value:.1f}", interval, f"{own.estimand.name}, {own.num_runs}"
        )
    return table


def _merged(pairs: Sequence[Pair]) -> str:
    """The reasons of several pairs, each with all that it is instead of."""
    printed: dict[str, list[str]] = {}
    for reason in (reason for pair in pairs for reason in pair.reasons):
        printed.setdefault(reason.own, []).append(reason.printed)
    texts = [(own, ", ".join(dict.fromkeys(filter(None, each)))) for own, each in printed.items()]
    return "; ".join(f"{own} instead of {instead}" if instead else own for own, instead in texts)


def lines_text(lines: Sequence[int]) -> str:
    """Lines of the file, the first few."""
    shown = ", ".join(map(str, lines[:_MOST_LINES]))
    more = f" and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
    return f"{'line' if len(lines) == 1 else 'lines'} {shown}{more}"


def _placed(pair: Pair) -> str:
    return f"{pair.setting}: {pair.arm}" if pair.setting else pair.arm


def _titled(title: str, parts: Sequence[RenderableType]) -> RenderableType:
    return Group(Text(title, style="bold"), "", *parts, "")


def _by_paper(findings: Sequence[Finding]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for source in dict.fromkeys(each.source for each in findings):
        parts.append(Text(source, style="underline"))
        for each in (each for each in findings if each.source == source):
            parts.append(Padding(Text(f"{each.rule}, {lines_text(each.lines)}: {each.where}"), (0, 0, 0, 2)))
            parts.append(Padding(Text(each.text), (0, 0, 0, 6)))
        parts.append("")
    return parts[:-1]


def _supports(audit: Audit, *, show_all: bool) -> list[RenderableType]:
    counts = _table("paper", *_VERDICTS.values())
    for source in audit.sources:
        own = Counter(_VERDICTS[each.verdict] for each in audit.supports if each.source == source)
        if own:
            counts.add_row(source, *(str(own[name]) if own[name] else "-" for name in _VERDICTS.values()))
    parts: list[RenderableType] = [Text(f"{_SCENARIO} {ONE_RUN}"), "", counts, ""]
    for source in audit.sources:
        own_supports = [each for each in audit.supports if each.source == source]
        shown = own_supports if show_all else main_ones(own_supports)
        for place, model in enumerate(dict.fromkeys(each.base_model for each in shown)):
            title = f"{source}: {model}" if place == 0 else model
            parts += [Text(title, style="underline" if place == 0 else "")]
            parts += [_differences([each for each in shown if each.base_model == model]), ""]
        rest = len(own_supports) - len(shown)
        parts += [Text(f"{rest} more with --all"), ""] if rest and shown else []
    return parts[:-1]


def main_ones(supports: Sequence[Support]) -> list[Support]:
    """What a reader asks for first: the largest claimed gains of every base model, averages before others."""
    gains = [each for each in supports if each.difference > 0 and each.low is not None]
    gains.sort(key=lambda each: (not each.is_mean, -each.difference))
    rank: Counter[str] = Counter()
    ranked = []
    for each in gains:
        ranked.append((rank[each.base_model], each))
        rank[each.base_model] += 1
    ranked.sort(key=lambda pair: pair[0])
    chosen = {id(each) for _, each in ranked[:_MAIN]}
    return [each for each in supports if id(each) in chosen]


def _differences(supports: Sequence[Support]) -> RenderableType:
    """A table, and below it the remarks of its verdicts, each once."""
    remarks = list(dict.fromkeys(each.remark for each in supports if each.remark))
    marks = {remark: f"({number})" for number, remark in enumerate(remarks, start=1)}
    table = _table("arm, benchmark", "diff.", "95 % interval", "detects", "verdict")
    for each in supports:
        name = f"{each.arm}, {each.benchmark} {each.metric}"
        verdict = f"{_VERDICTS[each.verdict]} {marks.get(each.remark, '')}".rstrip()
        interval = f"[{one_decimal(each.low)}, {one_decimal(each.high)}]" if each.protocols else "-"
        smallest = f"{each.detectable:.1f}" if each.detectable is not None else "-"
        table.add_row(name, f"{each.difference:+.1f}", interval, smallest, verdict)
    return Group(table, *(Text(f"{mark} {remark}") for remark, mark in marks.items()))


def _table(*headers: str) -> Table:
    """The first column folds, numbers stand to the right, words to the left."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, header in enumerate(headers):
        words = place == 0 or header in ("verdict", "checked")
        table.add_column(header, justify="left" if words else "right", overflow="fold", no_wrap=0 < place < 4)
    return table
