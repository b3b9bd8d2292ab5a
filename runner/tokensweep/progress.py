"""What a person sees while runs work: a live board in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tokensweep.files import last_line
from tokensweep.identity import read_json
from tokensweep.ledger import read_run


class Board:
    """Progress of a dispatch. ``labels`` maps a run id to what people call it (setting, arm, seed)."""

    def __init__(self, console: Console, *, labels: dict[str, str]) -> None:
        self._console = console
        self._labels = labels
        self._bar = Progress(
            TextColumn("[bold]runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._bar.add_task("runs")
        self._live: Live | None = None

    def start(self, *, total: int, done: int) -> None:
        """Show how many runs there are and how many are there already."""
        self._bar.update(self._task, total=total, completed=done)
        if self._console.is_terminal and done < total:
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)
            self._live.start()

    def show(self, working: Sequence[Path]) -> None:
        """Refresh the rows of the runs that are being worked on."""
        if self._live is None:
            return
        table = Table.grid(padding=(0, 2))
        for folder in working:
            table.add_row(*map(Text, _row(folder, self._labels.get(folder.name, folder.name))))
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(self._bar)
        self._live.update(grid)

    def waits(self, folder: Path) -> None:
        """Say that somebody else works on a run."""
        label = self._labels.get(folder.name, folder.name)
        self._say("waits", "yellow", f"{label}  another process works on it: {folder}")

    def ended(self, folder: Path) -> None:
        """A run left the board: say how it ended."""
        record = read_run(folder)
        self._bar.advance(self._task)
        label = self._labels.get(folder.name, folder.name)
        seconds = f"{record.seconds:.0f} s"
        if record.status == "finished":
            self._say("done", "green", f"{label}  {seconds}")
        else:
            reason = record.error or "the worker ended without a word; its log is in the run folder"
            self._say(record.status, "red", f"{label}  {reason.splitlines()[0]}\n         {folder}")

    def _say(self, word: str, style: str, rest: str) -> None:
        """A line of plain text: labels and errors have brackets that are no markup."""
        self._console.print(Text.assemble((f"{word:6}", style), f" {rest}"))

    def stop(self) -> None:
        """Take the live display down."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _row(folder: Path, label: str) -> tuple[str, str, str]:
    last = last_metrics(folder)
    if last is None:
        note = _last_event(folder)
        return label, note, ""
    steps = read_json(folder / "plan.json")["steps"]
    metrics = last["metrics"]
    shown = f"reward {metrics['reward']:.3f}" if "reward" in metrics else ""
    age = time.time() - last["time"]
    state = "evaluating" if last["step"] >= steps else f"step {last['step']}/{steps}"
    return label, state, shown + (f"  ({age:.0f} s ago)" if age > 60 else "")


def _last_event(folder: Path) -> str:
    attempts = sorted((folder / "attempts").glob("[0-9]*"))
    return "warm start / loading" if attempts else "starting"


def last_metrics(folder: Path) -> dict[str, Any] | None:
    """The newest complete row of the metrics of a run's newest attempt."""
    attempts = sorted((folder / "attempts").glob("[0-9]*"))
    return last_line(attempts[-1] / "metrics.jsonl") if attempts else None
