"""``tokensweep methods``: the presets that there are, and what one of them is, sets and claims."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tokensweep.compose import freeze_run, register_components
from tokensweep.conditions import CONDITIONS
from tokensweep.loss.method import MAP_SLOTS, SINGLE_SLOTS, Method, build_method, inert_keys
from tokensweep.loss.slots import Part
from tokensweep.paths import conf_dir
from tokensweep.presets import Preset, no_preset, presets, sweep_of
from tokensweep.registry import KIND, components
from tokensweep.sweepshape import read_sweep_file

_ARXIV = re.compile(r"arXiv:\d{4}\.\d{5}")
_NEUTRAL = ".grpo"
_CONDITIONS = "; ".join(f"{key}: {each.text}" for key, each in CONDITIONS.items())
_EPILOG = f"""Evidence says what a preset was made from: paper, code (of authors or a library), note or
reconstruction. Conditions (applies_to): {_CONDITIONS}.
Presets of your own are found in TOKENSWEEP_PATH. Several compose where they fill different slots:
tokensweep train method=[dapo,forking_tokens,tis]."""


def methods_command(arguments: Sequence[str]) -> None:
    """List all method presets, or explain the one that is named. Raises ValueError for an unknown name."""
    parser = argparse.ArgumentParser(
        prog="tokensweep methods",
        description="List the method presets; with NAME its definition, the component in each slot, the keys "
        "to turn, the claims of its sweep and the command that runs it.",
        epilog=_EPILOG,
    )
    parser.add_argument("name", nargs="?", help="a preset, such as forking_tokens")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: one object, or a list of all")
    form.add_argument("--markdown", action="store_true", help="a table, as in docs/methods.md")
    options = parser.parse_args(arguments)
    known = presets()
    if options.name is not None and options.name not in known:
        raise ValueError(no_preset(options.name, known))
    chosen = list(known.values()) if options.name is None else [known[options.name]]
    console = Console()
    if options.json:
        told = [as_json(each) for each in chosen]
        print(json.dumps(told if options.name is None else told[0], indent=2, ensure_ascii=False))
    elif options.markdown:
        print(markdown_table(chosen))
    elif options.name is None:
        _list(chosen, console)
    else:
        _explain(chosen[0], console)


def as_json(preset: Preset) -> dict[str, Any]:
    """What a program may want to know of a preset."""
    sweep = sweep_of(preset)
    return {
        "name": preset.name,
        "summary": summary(preset),
        "paper": preset.paper,
        "evidence": preset.evidence,
        "slots": list(preset.slots),
        "bases": list(preset.bases),
        "applies_to": list(preset.applies_to),
        "sweep": sweep.stem if sweep else None,
    }


def summary(preset: Preset) -> str:
    """The first sentence of the comment that its file starts with."""
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(preset.header), maxsplit=1)[0]


def markdown_table(chosen: Sequence[Preset], status: Mapping[str, str] | None = None) -> str:
    """A line per preset: paper, slots that it changes, the size of its code, evidence, conditions, sweep.

    ``status`` says by name what has been run; without it there is no such column.
    """
    register_components()
    header = [
        "method",
        "paper",
        "changes",
        "code",
        "evidence",
        "applies to",
        "sweep",
        *(["status"] if status else []),
    ]
    rows = [_cells(preset) + ([status.get(preset.name, "-")] if status else []) for preset in chosen]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def _cells(preset: Preset) -> list[str]:
    """A preset as cells of Markdown."""
    sweep = sweep_of(preset)
    return [
        f"`{preset.name}`",
        linked(preset.paper),
        ", ".join([*(f"`{base}` +" for base in preset.bases), *preset.slots]),
        ", ".join(f"{module} {lines}" for module, lines in code_of(preset).items()) or "-",
        preset.evidence,
        ", ".join(preset.applies_to),
        f"`{sweep.stem}`" if sweep else "-",
    ]


def linked(paper: str) -> str:
    """A paper as a link in Markdown; an address stands as it is."""
    number = paper.removeprefix("arXiv:")
    return f"[{number}](https://arxiv.org/abs/{number})" if number != paper else paper


def code_of(preset: Preset) -> dict[str, int]:
    """Modules with the components that a preset selects itself, and how many of their lines are code.

    Empty lines, comments and docstrings do not count; a module may hold other methods' components, too. The
    module of the neutral choices counts for GRPO alone.
    """
    classes = [
        components(f"method/{place.partition('@')[0]}").get(option)
        for place, option in preset.selects.items()
    ]
    modules = {cls.__module__: inspect.getmodule(cls) for cls in classes if cls is not None}
    sources = {name: inspect.getsource(module) for name, module in modules.items() if module is not None}
    return {
        name.rpartition(".")[2]: lines_of_code(source)
        for name, source in sources.items()
        if preset.paper in source or not name.endswith(_NEUTRAL)
    }


def lines_of_code(source: str) -> int:
    """Lines with code in a Python text; empty lines, comments and docstrings are left out."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
    ]
    left_out = {line for text in texts for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in left_out
        for number, line in lines
    )


def _list(known: Sequence[Preset], console: Console) -> None:
    for preset in known:
        source = f"{preset.paper}, {preset.evidence or 'no evidence given'}".strip(", ")
        changes = ", ".join([*(f"{base} +" for base in preset.bases), *preset.slots])
        console.print(Text.assemble((preset.name, "bold"), "  ", (f"{source}; changes {changes}", "dim")))
        console.print(_indented(summary(preset)))


def _explain(preset: Preset, console: Console) -> None:
    register_components()
    node = freeze_run([f"method={preset.name}", "~scale"])["method"]
    method = build_method(node)
    console.print(Text(" ".join(preset.header)))
    updates = f"updates per batch: {node['updates_per_batch']}{_scaled_updates()}"
    console.print(Text(f"\n{node['paper']}, evidence: {node['evidence']}, {updates}"))
    for name in preset.applies_to:
        told = CONDITIONS[name].text if name in CONDITIONS else "a condition of its own"
        console.print(Text(f"applies to {name}: {told}"))
    _explain_slots(preset, node, method, console)
    console.print(Text(f"\nneeds {', '.join(sorted(method.needs()))}"))
    for key, reason in inert_keys(method).items():
        console.print(Text(f"method.{key} has no effect as the preset stands: {reason}"))
    _explain_sweep(preset, console)


def _explain_slots(preset: Preset, node: Mapping[str, Any], method: Method, console: Console) -> None:
    """Its own components with their whole definition and keys, then what it leaves as its bases have it."""
    own = {place.partition("@")[2] or place.partition("@")[0] for place in preset.selects}
    parts = dict(method.parts())
    for where in sorted(_slots(node), key=lambda where: where not in own):
        part = node[where] if "." not in where else node[where.partition(".")[0]][where.partition(".")[2]]
        console.print(
            Text.assemble(("\n" if where in own else "", ""), (where, "bold"), "  ", _with_fields(part))
        )
        if where not in own:
            console.print(_indented(_docstring(parts[where]).partition("\n")[0]))
            continue
        console.print(_indented(_docstring(parts[where], paper=preset.paper)))
        for told in _own_metrics(parts[where]):
            console.print(_indented(f"metrics method/{where}/...: {told}"))
        for key, value in part.items():
            if key != KIND:
                console.print(_indented(f"method.{where}.{key}={json.dumps(value)}"))
    console.print()
    for name, schedule in node["schedules"].items():
        console.print(Text.assemble((f"schedules.{name}", "bold"), "  ", json.dumps(schedule)))


def _own_metrics(part: Part) -> Iterator[str]:
    """What a component says of the metrics that it tells of itself."""
    for name in ("batch_metrics", "metrics"):
        own = getattr(type(part), name)
        if own is not getattr(Part, name):
            yield inspect.cleandoc(own.__doc__ or "").replace("\n", " ")


def _explain_sweep(preset: Preset, console: Console) -> None:
    """The arms and claims of the sweep that is about it, and the command."""
    path = sweep_of(preset)
    if path is None:
        others = ",".join(dict.fromkeys([*(preset.bases[-1:] or ("grpo",)), preset.name]))
        console.print(Text(f"\nno sweep is about it: tokensweep train -m method={others} seed=0,1,2"))
        return
    content = read_sweep_file(path)
    console.print(Text.assemble(("\nsweep ", ""), (path.stem, "bold"), f"  {content.get('question', '')}"))
    console.print(_indented(f"arms: {', '.join(content['arms'])}"))
    for claim in content.get("claims", []):
        told = ", ".join(f"{key} {value}" for key, value in claim.items() if key != "id")
        console.print(_indented(f"claim {claim['id']}: {told}"))
    scale = next(iter(content["scales"]))
    console.print(_indented(f"tokensweep plan {path.stem} scale={scale}"))
    console.print(_indented(f"tokensweep sweep {path.stem} scale={scale}"))


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
    return [*singles, *(f"{slot}.{name}" for slot in MAP_SLOTS for name in node.get(slot, {}))]


def _with_fields(part: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={value}" for key, value in part.items() if key != KIND)
    name = str(part[KIND]).rpartition("/")[2]
    return f"{name}({fields})" if fields else name


def _docstring(part: Part, *, paper: str = "") -> str:
    """Its documentation, a line per paragraph; "the paper" is named where it is not that of the preset."""
    text = inspect.cleandoc(type(part).__doc__ or "").replace("``", "")
    module = inspect.getmodule(type(part))
    about = _ARXIV.search((module.__doc__ or "") if module else "")
    if about and about[0] != paper:
        text = re.sub(r"\b[Tt]he paper\b", lambda found: f"{found[0]} ({about[0]})", text, count=1)
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
