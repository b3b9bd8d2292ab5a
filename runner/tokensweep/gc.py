"""``tokensweep gc``: shows what of a store nobody needs any more, and if asked to, removes exactly that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokensweep.cluster.reconcile import look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.garbage import Item, delete, find_garbage, protected_runs
from tokensweep.options import known_sweep, with_store


def gc_command(arguments: Sequence[str]) -> None:
    """Show what can go, and remove exactly that with ``--delete``."""
    parser = argparse.ArgumentParser(
        prog="tokensweep gc",
        description="Show what nobody needs any more; with --delete also remove it. Leftovers of killed "
        "processes, checkpoints of finished runs but the last, code snapshots that no submission uses, "
        "submitit's files of jobs that ended 30 days ago.",
    )
    parser.add_argument("sweeps", nargs="*", help="names of sweeps: their runs and submissions")
    parser.add_argument("--all", action="store_true", help="the whole store, snapshots and models as well")
    parser.add_argument("--models", action="store_true", help="models that no run uses, too (with --all)")
    parser.add_argument("--delete", action="store_true", help="remove what is shown")
    parser.add_argument("--json", action="store_true", help="for programs: kind, path, bytes, why, left")
    options, store, _ = with_store(parser, arguments)
    if bool(options.sweeps) == options.all:
        parser.error("name a sweep, or give --all")
    if options.models and not options.all:
        parser.error("--models needs --all: models belong to no sweep")
    names = None if options.all else [known_sweep(store, name) for name in options.sweeps]
    queue = look(store, Scheduler())
    protected = protected_runs(store, queue)
    items = find_garbage(store, sweeps=names, protected=protected, models=options.models)
    left = delete(store, items) if options.delete else {}
    if options.json:
        rows = [_row(item, store, left) for item in items]
        print(json.dumps({"items": rows, "deleted": options.delete, "slurm": queue.silence}, indent=1))
    else:
        _show(items, store, Console(), left=left, deleted=options.delete, silence=queue.silence)


def _row(item: Item, store: Path, left: dict[Path, str]) -> dict[str, object]:
    return {
        "kind": item.kind.value,
        "path": str(item.path.relative_to(store)),
        "bytes": item.size,
        "why": item.why,
        "left": left.get(item.path, ""),
    }


def _show(
    items: Sequence[Item],
    store: Path,
    console: Console,
    *,
    left: dict[Path, str],
    deleted: bool,
    silence: str,
) -> None:
    if silence:
        console.print(
            f"runs with open jobs are left alone, as SLURM does not say how they are: {escape(silence)}"
        )
    if not items:
        console.print(f"nothing in {store} can go", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("size", justify="right", no_wrap=True)
    for name in ("what", "where", "why"):
        table.add_column(name, overflow="fold")
    for item in items:
        why = f"left: {left[item.path]}" if item.path in left else item.why
        where = escape(str(item.path.relative_to(store)))
        table.add_row(spelt(item.size), item.kind.value, where, why)
    console.print(table)
    total = spelt(sum(item.size for item in items if item.path not in left))
    number = len(items) - len(left)
    said = f"removed {number}, {total}" if deleted else f"{number} could go, {total}; --delete removes them"
    console.print(said, highlight=False)


def spelt(size: int) -> str:
    """Bytes for people, in powers of 1000: ``6.1 GB``."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"
