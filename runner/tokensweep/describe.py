"""``tokensweep methods``: the presets that there are, and what fills the slots of one of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tokensweep.compose import freeze_run, register_components
from tokensweep.loss.method import MAP_SLOTS, SINGLE_SLOTS, build_method, inert_keys
from tokensweep.paths import conf_dir, extension_dirs
from tokensweep.registry import KIND


def methods_command(arguments: Sequence[str]) -> None:
    """List all method presets, or explain the one that is named. Raises ValueError for an unknown name."""
    parser = argparse.ArgumentParser(
        prog="tokensweep methods",
        description="List the method presets; with NAME the component in each slot, its fields and source.",
        epilog="Evidence says what a preset was made from: paper, code (of authors or a library), note or "
        "reconstruction. Presets of your own are found in TOKENSWEEP_PATH.",
    )
    parser.add_argument("name", nargs="?", help="a preset, such as forking_tokens")
    options = parser.parse_args(arguments)
    console = Console()
    if options.name is None:
        _list(presets(), console)
        return
    known = presets()
    if options.name not in known:
        raise ValueError(f"no method {options.name!r}: known are {', '.join(known)}")
    _explain(options.name, known[options.name], console)


def presets() -> dict[str, Path]:
    """Files of all method presets by name, the user's own first where names agree."""
    folders = [conf_dir(), *(folder / "conf" for folder in reversed(extension_dirs()))]
    files = {path.stem: path for folder in folders for path in (folder / "method").glob("*.yaml")}
    return dict(sorted(files.items()))


def header(path: Path) -> list[str]:
    """The lines of the comment that a preset starts with."""
    lines = path.read_text().splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").strip() for line in lines[:end]]


def _list(known: Mapping[str, Path], console: Console) -> None:
    for name, path in known.items():
        content = yaml.safe_load(path.read_text()) or {}
        source = f"{content.get('paper', '')}, {content.get('evidence', 'no evidence given')}".strip(", ")
        console.print(Text.assemble((name, "bold"), "  ", (source, "dim")))
        console.print(_indented(" ".join(header(path)[:1])))


def _explain(name: str, path: Path, console: Console) -> None:
    register_components()
    node = freeze_run([f"method={name}", "~scale"])["method"]
    method = build_method(node)
    console.print(Text(" ".join(header(path))))
    updates = f"updates per batch: {node['updates_per_batch']}{_scaled_updates()}"
    console.print(Text(f"\n{node['paper']}, evidence: {node['evidence']}, {updates}\n"))
    parts = dict(method.parts())
    for where in _slots(node):
        slot, _, key = where.partition(".")
        component = _with_fields(node[slot][key] if key else node[slot])
        console.print(Text.assemble((where, "bold"), "  ", component))
        console.print(_indented(_first_line(parts[where])))
    console.print(Text(f"\nneeds {', '.join(sorted(method.needs()))}"))
    for key, reason in inert_keys(method).items():
        console.print(Text(f"without a scale there is no effect of method.{key}: {reason}"))


def _scaled_updates() -> str:
    """The scales that set the number of updates themselves, whatever the preset says."""
    found = {}
    for path in sorted((conf_dir() / "scale").glob("*.yaml")):
        number = (yaml.safe_load(path.read_text()).get("method") or {}).get("updates_per_batch")
        if number is not None:
            found[path.stem] = number
    set_by = ", ".join(f"scale={name} sets {number}" for name, number in found.items())
    return f" ({set_by}; ~scale leaves it)" if set_by else ""


def _indented(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 4), expand=False)


def _slots(node: Mapping[str, Any]) -> list[str]:
    """Filled slots in the order in which a step comes to them."""
    singles = [slot for slot in SINGLE_SLOTS if slot in node]
    return [*singles, *(f"{slot}.{name}" for slot in MAP_SLOTS for name in node[slot])]


def _with_fields(part: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={value}" for key, value in part.items() if key != KIND)
    name = str(part[KIND]).rpartition("/")[2]
    return f"{name}({fields})" if fields else name


def _first_line(part: object) -> str:
    return (type(part).__doc__ or "").strip().partition("\n")[0].replace("``", "")
