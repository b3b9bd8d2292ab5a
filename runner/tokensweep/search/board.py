"""What a person sees while a search works on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokensweep.progress import last_metrics
from tokensweep.redact import redact

if TYPE_CHECKING:
    from tokensweep.search.study import Study


class SearchBoard:
    """Trials as they are told, and in a terminal those at work."""

    def __init__(self, console: Console, study: Study) -> None:
        self._console, self._study = console, study
        self._seen = {row["number"] for row in study.rows() if row["ended"]}
        self._bar = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=study.search.trials)
        self._live: Live | None = None
        self._is_away = False  # the study

    def start(self) -> None:
        """Put the live display up, in a terminal."""
        if self._console.is_terminal and self._study.missing():
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)
            self._live.start()

    def show(self) -> None:
        """Say what was told since the last call, and how far the others are.

        A study out of reach is said once and ends nothing: what is at work needs no watcher.
        """
        try:
            rows = self._study.rows()
        except ValueError as error:
            if not self._is_away:
                self._console.print(escape(redact(f"cannot see the trials now: {error}")), style="yellow")
            self._is_away = True
            return
        self._is_away = False
        for row in rows:
            if row["ended"] and row["number"] not in self._seen:
                self._seen.add(row["number"])
                self._console.print(_ended(row, self._study.search.objectives), highlight=False)
        if self._live is None:
            return
        self._bar.update(self._task, completed=sum(bool(row["counted"] and row["ended"]) for row in rows))
        table = Table.grid(padding=(0, 2))
        for row in rows:
            if row["state"] == "running":
                table.add_row(row["arm"], self._how_far(row), escape(_told(row["params"])))
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(self._bar)
        self._live.update(grid)

    def stop(self) -> None:
        """Take the live display down."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _how_far(self, row: dict[str, Any]) -> str:
        runs = self._study.folder.parents[2] / "runs"
        steps = self._study.steps
        told = []
        for run_id in row["runs"].values():
            last = last_metrics(runs / run_id)
            if last is not None:
                told.append(f"step {last['step']}/{steps}")
        return ", ".join(told) or "starting"


def _ended(row: dict[str, Any], objectives: Any) -> str:
    """A line for a trial that has ended."""
    params = escape(_told(row["params"]))
    match row["state"]:
        case "complete":
            values = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(objectives, row["values"], strict=True)
            )
            return f"[green]told[/]    {row['arm']}  {values}  {params}"
        case "pruned":
            return f"[cyan]pruned[/]  {row['arm']}  at step {row['pruned_step']}  {params}"
        case _ if not row["counted"] and not row["reason"]:
            return f"[dim]again[/]   {row['arm']}  was tried before  {params}"
        case _:
            reason = escape(row["reason"].partition("\n")[0])
            return f"[red]failed[/]  {row['arm']}  {reason}  {params}"


def _told(params: dict[str, Any]) -> str:
    """The values of a trial under the last words of their keys."""
    return " ".join(
        f"{key.rpartition('.')[2]}={value:.4g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]}={value}"
        for key, value in params.items()
    )
