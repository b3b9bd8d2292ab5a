"""The status of sweeps as a person reads it in a terminal of any width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from tokensweep.cluster.reconcile import State
from tokensweep.cluster.status import OPEN, TROUBLE, RunRow, SweepStatus, span
from tokensweep.cluster.waiting import in_words
from tokensweep_analysis.layout import Cell, Column, FittedTable

_MOST = 10  # runs in trouble that are shown in full


def screen(status: SweepStatus) -> RenderableType:
    """A line per arm, then what is wrong and what is waited for."""
    counts = ", ".join(f"{number} {state}" for state, number in sorted(status.counts().items()))
    number = f"{len(status.rows)} run" + ("" if len(status.rows) == 1 else "s")
    is_search = status.search is not None
    shown = [row for row in status.rows if not is_search or row.state.state in OPEN]
    parts: list[RenderableType] = [_arms(shown)] if shown or not is_search else []
    parts.append(Text(f"{number}: {counts}"))
    if status.search is not None:
        parts.append(Text(str(status.search)))
        if status.search.remark:
            parts.append(Text(status.search.remark, "yellow"))
    if status.silence:
        told = f"SLURM does not answer, so this is what the run folders say: {status.silence}"
        parts.append(Text(told, "yellow"))
    trouble = [row for row in status.rows if row.state.state in TROUBLE]
    parts += [_trouble(row) for row in trouble[:_MOST]]
    if len(trouble) > _MOST:
        parts.append(Text(f"and {len(trouble) - _MOST} more: tokensweep status {status.sweep} --runs", "red"))
    parts += [Text(f"waiting: {reason} ({number})") for reason, number in _reasons(status.rows)]
    return Group(*parts)


def run_list(status: SweepStatus) -> RenderableType:
    """A line per run."""
    columns = {
        "run": [Cell((row.run_id,)) for row in status.rows],
        "setting arm": [Cell((row.setting, row.arm)) for row in status.rows],
        "seed": [Cell((str(row.seed),)) for row in status.rows],
        "state": [Cell(tuple(filter(None, (row.state.state, row.state.stage)))) for row in status.rows],
        "step": [Cell((f"{row.step}/{row.steps}",)) for row in status.rows],
        "job": [Cell((row.state.job,)) for row in status.rows],
        "node": [Cell((row.state.node,)) for row in status.rows],
        "attempts": [Cell((str(row.attempts),)) for row in status.rows],
    }
    return _table(columns, always=tuple(columns))


def sweep_list(found: Sequence[SweepStatus]) -> RenderableType:
    """A line per sweep, with a column for every state that occurs."""
    columns = {"sweep": [Cell((status.sweep,)) for status in found]}
    for state in State:
        columns[str(state)] = [Cell((str(status.counts()[state] or ""),)) for status in found]
    return _table(columns, always=("sweep", "finished"))


def _arms(rows: Sequence[RunRow]) -> RenderableType:
    arms = list(_by_arm(rows))
    cells = [_cells(own) for _, own in arms]
    columns = {"setting arm": [Cell(name) for name, _ in arms]}
    for header in cells[0] if cells else ():
        columns[header] = [Cell(tuple(own[header].replace("h ", "h|").split("|"))) for own in cells]
    return _table(columns, always=("setting arm", "finished", "step"))


def _table(columns: dict[str, list[Cell]], *, always: Sequence[str]) -> RenderableType:
    """Columns that hold something, and those that are always there."""
    shown = {
        header: cells for header, cells in columns.items() if header in always or any(map(_filled, cells))
    }
    return FittedTable(
        tuple(Column(Cell(tuple(header.split(" "))), tuple(cells)) for header, cells in shown.items())
    )


def _filled(cell: Cell) -> bool:
    return any(cell.parts)


def _by_arm(rows: Sequence[RunRow]) -> Iterator[tuple[tuple[str, str], list[RunRow]]]:
    arms: dict[tuple[str, str], list[RunRow]] = {}
    for row in rows:
        arms.setdefault((row.setting, row.arm), []).append(row)
    yield from arms.items()


def _cells(rows: Sequence[RunRow]) -> dict[str, str]:
    """What is shown of the runs of an arm, by header."""
    count = Counter(row.state.state for row in rows)
    preempted = sum(row.state.preempted for row in rows)
    active = [row for row in rows if row.state.state is State.running] or rows
    steps = sorted({row.step for row in active})
    step = str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
    rewards = [row.reward for row in rows if row.reward is not None]
    speeds = [row.tokens_per_s for row in rows if row.tokens_per_s is not None]
    left = [row.seconds_left for row in rows if row.seconds_left is not None]
    return {
        "finished": f"{count[State.finished]}/{len(rows)}",
        "running": str(count[State.running] or ""),
        "queued": str(count[State.queued] or ""),
        "failed": str(sum(count[state] for state in TROUBLE) or ""),
        "preempted": f"{preempted} x" if preempted else "",
        "step": f"{step}/{max(row.steps for row in rows)}",
        "reward": f"{sum(rewards) / len(rewards):.3f}" if rewards else "",
        "tokens/s": f"{sum(speeds) / len(speeds):.0f}" if speeds else "",
        "ready in": span(max(left)) if left else "",
    }


def _trouble(row: RunRow) -> Text:
    what = f"{row.state.state}" + (f" ({row.state.error_class})" if row.state.error_class else "")
    where = ", ".join(filter(None, (row.state.job and f"job {row.state.job}", row.state.node)))
    head = f"{row.setting} {row.arm} seed {row.seed}  {row.run_id}  {what}" + (f"  {where}" if where else "")
    lines = [row.state.reason.splitlines()[0] if row.state.reason else "", *row.log.splitlines()]
    text = Text(head, "red")
    for line in filter(None, lines):
        text.append(f"\n    {line}", "dim")
    return text


def _reasons(rows: Sequence[RunRow]) -> list[tuple[str, int]]:
    waiting = [row.state for row in rows if row.state.state is State.queued]
    return Counter(in_words(state.reason, stage=state.stage) for state in waiting).most_common()
