"""What the files of method presets say: their sources, what they start from, and the slots that they fill."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tokensweep.paths import conf_dir, extension_dirs, sweep_dirs

EVIDENCE = ("paper", "code", "note", "reconstruction")  # what a preset was made from, the strongest first
_LABELS = frozenset({"name", "paper", "evidence", "applies_to", "defaults"})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A file in ``conf/method``; what its ``bases`` say counts in none of the other fields."""

    name: str
    path: Path
    header: tuple[str, ...]  # lines of the comment that it starts with
    paper: str
    evidence: str  # one of EVIDENCE; empty where the file says none
    applies_to: tuple[str, ...]  # conditions that must hold, ``any`` for none
    bases: tuple[str, ...]  # presets that it starts from
    selects: Mapping[str, str] = field(default_factory=dict)  # option by slot, or by slot@place in a map slot
    values: Mapping[str, Any] = field(default_factory=dict)  # those that it sets, by dotted key below method

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots and keys that it changes, in its order."""
        keys = (key.partition(".")[0] for key in self.values)
        return tuple(dict.fromkeys([*(place.partition("@")[0] for place in self.selects), *keys]))


def presets() -> dict[str, Preset]:
    """All method presets by name, the user's own first where names agree."""
    folders = [conf_dir(), *(folder / "conf" for folder in reversed(extension_dirs()))]
    files = {path.stem: path for folder in folders for path in (folder / "method").glob("*.yaml")}
    return {name: read_preset(path) for name, path in sorted(files.items())}


def find_preset(name: str) -> Preset | None:
    """The preset of that name, a user's own first; None where there is no such file."""
    folders = [*(folder / "conf" for folder in extension_dirs()), conf_dir()]
    paths = (folder / "method" / f"{name}.yaml" for folder in folders)
    return next((read_preset(path) for path in paths if path.is_file()), None)


def no_preset(name: str, known: Iterable[str]) -> str:
    """What to tell somebody who asked for a preset that there is not."""
    known = list(known)
    near = [each for each in known if name and name.lower() in each] or difflib.get_close_matches(
        name.lower(), known
    )
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no method {name!r}: {hint}known are {', '.join(known)}"


def read_preset(path: Path) -> Preset:
    """The preset in a file. Raises ValueError that names the file where it is no mapping."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with a preset's keys, got {type(content).__name__}")
    bases, selects = _defaults(content.get("defaults", []))
    applies_to = content.get("applies_to") or ["any"]
    return Preset(
        name=path.stem,
        path=path,
        header=_header(text),
        paper=str(content.get("paper", "")),
        evidence=str(content.get("evidence", "")),
        applies_to=tuple(map(str, applies_to)),
        bases=bases,
        selects=selects,
        values=dict(_leaves({key: value for key, value in content.items() if key not in _LABELS})),
    )


def _defaults(entries: list[Any]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The presets and the options of slots in a defaults list: ``dapo``, ``a/b@a.c``, ``override a: b``."""
    bases: list[str] = []
    selects: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, dict):
            selects.update(
                {key.removeprefix("override ").strip(): str(value) for key, value in entry.items()}
            )
        elif "/" in entry:
            option, _, place = entry.partition("@")
            slot, _, name = option.rpartition("/")
            selects[f"{slot}@{place or slot}"] = name
        elif entry != "_self_":
            bases.append(entry)
    return tuple(bases), selects


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _header(text: str) -> tuple[str, ...]:
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return tuple(line.removeprefix("#").strip() for line in lines[:end])


def sweep_of(preset: Preset) -> Path | None:
    """The sweep file about a preset: that of its name, else one with it in an arm, of its paper if there is.

    None where only sweeps of no paper have it.
    """
    files = [path for folder in sweep_dirs() if folder.is_dir() for path in sorted(folder.glob("*.yaml"))]
    named = [path for path in files if path.stem == preset.name]
    using = {
        path: paper
        for path in files
        for paper, chosen in [_presets_in(path, path.stat().st_mtime_ns)]
        if paper and preset.name in chosen
    }
    own = [path for path, paper in using.items() if paper == preset.paper]
    return next(iter([*named, *own, *using]), None)


@lru_cache(maxsize=256)
def _presets_in(path: Path, modified: int) -> tuple[str, frozenset[str]]:
    """The paper of a sweep and the presets in its arms, by themselves or in a stack; ``modified`` when."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    chosen = [(arm or {}).get("method") for arm in (content.get("arms") or {}).values()]
    names = (name for each in chosen for name in (each if isinstance(each, list) else [each]))
    return str(content.get("paper", "")), frozenset(map(str, names))
