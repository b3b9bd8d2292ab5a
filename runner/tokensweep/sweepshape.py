"""What may stand in a sweep file: every key is checked where the file is read, before any of it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tokensweep.factorial import NONE, read_design
from tokensweep.names import check_label
from tokensweep_analysis.claims import claim_entries, parse_claims

_TEXTS = frozenset({"paper", "question", "baseline", "note"})
_TOP_KEYS = frozenset(
    {"paper", "question", "base", "arms", "baseline", "seeds", "settings", "about", "claims", "scales"}
    | {"factorial"}
)
_SEARCH_KEYS = frozenset({"paper", "question", "note", "base", "search", "seeds", "scales"})
_SCALE_KEYS = frozenset({"base", "arms", "seeds", "settings", "claims", "note"})
_ABOUT_KEYS = frozenset({"model", "data"})
_NEEDED = ("arms", "seeds", "scales")


def read_sweep_file(path: Path) -> dict[str, Any]:
    """The content of a sweep file, names as text; a key with nothing behind it is as if left out.

    Raises ValueError that names the file and the key, at any of its scales.
    """
    parsed = _parsed(path)
    if "search" in parsed:
        return _search_file(parsed, path)
    content = _known(parsed, _TOP_KEYS, str(path))
    if "factorial" in content:
        content = _with_design(content, path)
    for key in _NEEDED:
        if not content.get(key):
            raise ValueError(f"{path} must have a non-empty {key!r}")
    content = _part(content, path)
    content["arms"] = arms = _options(content["arms"], f"{path}: arms", what=f"{path}: an arm")
    if content.get("baseline", next(iter(arms))) not in arms:
        raise ValueError(
            f"{path}: baseline must be one of the arms {', '.join(arms)}, got {content['baseline']!r}"
        )
    content["about"] = _about(content.get("about", {}), f"{path}: about")
    scales = _mapping(content["scales"], f"{path}: scales", of="NAME: {KEY: VALUE}")
    content["scales"] = {scale: _scale(node, arms, path, scale) for scale, node in scales.items()}
    _check_arms_of_settings(content, arms, str(path))
    if "factors" in content:
        _check_whole_design(content, path)
    for scale, at_scale in content["scales"].items():
        parse_claims(merged_claims(content, at_scale), arms=arms, where=f"{path}: claims at scale {scale}")
    return content


def _with_design(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A file with a factorial design in place of arms: its arms, and by factor those that have it."""
    if content.get("arms"):
        raise ValueError(
            f"{path} must have arms or factorial, got both: make the other arms a file of their own"
        )
    where = f"{path}: factorial"
    design = read_design(_mapping(content["factorial"], where, of="factors and fraction"), where=where)
    rest = {key: value for key, value in content.items() if key != "factorial"}
    return {"baseline": NONE, **rest, "arms": design.arms, "factors": design.factors}


def _check_whole_design(content: Mapping[str, Any], path: Path) -> None:
    """Effects compare all arms of a design, so neither a scale nor a setting may have some of them only."""
    parts = {str(path): content, **{f"{path}: scales.{name}": at for name, at in content["scales"].items()}}
    for where, part in parts.items():
        choosing = [f"settings.{name}" for name, each in part.get("settings", {}).items() if "arms" in each]
        if part is not content and "arms" in part:
            choosing.append("its own")
        if choosing:
            raise ValueError(
                f"{where} must have every arm of its factorial, whose effects compare all of them, got "
                f"{choosing[0]} arms: leave arms out, or make that a file of its own"
            )


def _search_file(parsed: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A file whose arms Optuna makes up: it has no arms, claims or settings. What is in ``search`` is read
    by :mod:`tokensweep.search.read`."""
    content = _part(_known(parsed, _SEARCH_KEYS, f"{path} has 'search', so it"), path)
    for key in ("search", "seeds", "scales"):
        if not content.get(key):
            raise ValueError(f"{path} must have a non-empty {key!r}")
    content["search"] = _mapping(content["search"], f"{path}: search", of="KEY: VALUE")
    scales = _mapping(content["scales"], f"{path}: scales", of="NAME: {KEY: VALUE}")
    content["scales"] = {name: _search_scale(node, path, name) for name, node in scales.items()}
    return content


def _search_scale(node: Any, path: Path, name: str) -> dict[str, Any]:
    where = f"{path}: scales.{name}"
    known = frozenset({"base", "seeds", "note", "search"})
    content = _part(_known({} if node is None else node, known, where), path, at=f"scales.{name}.")
    if "search" in content:
        content["search"] = _mapping(content["search"], f"{where}.search", of="KEY: VALUE")
    return content


def merged_claims(content: Mapping[str, Any], at_scale: Mapping[str, Any]) -> list[Any]:
    """A scale's own claims, then those of the file, which are about its ``about``."""
    about, own = content.get("about", {}), content.get("claims", [])
    return [
        *at_scale.get("claims", []),
        *({**about, **each} if isinstance(each, Mapping) else each for each in own),
    ]


def refuse_twice(names: Sequence[Any], *, where: str) -> None:
    """Raise ValueError for a seed or an arm that stands twice: tables would count one run as two."""
    if again := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{where} has {again[0]} twice, which would count one run as two: take one out")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        again = next(_repeated(yaml.compose(text, Loader=yaml.SafeLoader)), None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, got {error}: save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with {', '.join(sorted(_TOP_KEYS))}")
    if again is not None:
        raise ValueError(
            f"{path} line {again.start_mark.line + 1}: {again.value!r} stands twice in one mapping, and only "
            "one of them would count: put them together"
        )
    return content


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Keys that a mapping has had before."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _repeated(each)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    yield key
                seen.add(key.value)
            yield from _repeated(value)


def _scale(node: Any, arms: Collection[str], path: Path, name: str) -> dict[str, Any]:
    where = f"{path}: scales.{name}"
    content = _part(_known({} if node is None else node, _SCALE_KEYS, where), path, at=f"scales.{name}.")
    if "arms" in content:
        content["arms"] = names = list(map(str, _list(content["arms"], f"{where}.arms", of="arms")))
        _check_known(names, arms, where)
    _check_arms_of_settings(content, arms, where)
    return content


def _check_arms_of_settings(content: Mapping[str, Any], arms: Collection[str], where: str) -> None:
    """A setting may name the arms that it has; without that it has all."""
    for name, options in content.get("settings", {}).items():
        if "arms" in options:
            own = f"{where}: settings.{name}"
            options["arms"] = names = list(map(str, _list(options["arms"], f"{own}.arms", of="arms")))
            _check_known(names, arms, own)


def _check_known(names: Sequence[str], arms: Collection[str], where: str) -> None:
    if missing := [name for name in names if name not in arms]:
        raise ValueError(f"{where}.arms has no arm {', '.join(missing)}: known are {', '.join(arms)}")


def _part(content: Mapping[str, Any], path: Path, *, at: str = "") -> dict[str, Any]:
    """The keys that the top of a file and its scales share, checked; ``at`` goes before their names."""
    where = f"{path}: {at}"
    part = dict(content)
    for key in _TEXTS & part.keys():
        part[key] = _text(part[key], f"{where}{key}")
    if "base" in part:
        part["base"] = _mapping(part["base"], f"{where}base", of="KEY: VALUE")
    if "seeds" in part:
        part["seeds"] = _seeds(part["seeds"], f"{where}seeds")
    if "settings" in part:
        part["settings"] = _options(part["settings"], f"{where}settings", what=f"{path}: a setting")
    if "claims" in part:
        part["claims"] = claim_entries(part["claims"], where=f"{where}claims")
    return part


def _about(node: Any, where: str) -> dict[str, str]:
    about = _known(node, _ABOUT_KEYS, where)
    return {key: _text(value, f"{where}.{key}") for key, value in about.items()}


def _options(node: Any, where: str, *, what: str) -> dict[str, dict[str, Any]]:
    """Arms or settings: overrides by name."""
    named = _mapping(node, where, of="NAME: {KEY: VALUE}")
    if not named:
        raise ValueError(f"{where} must not be empty: add a name, or leave the key out")
    for name in named:
        check_label(name, what=what)
    return {
        name: _mapping({} if options is None else options, f"{where}.{name}", of="KEY: VALUE")
        for name, options in named.items()
    }


def _seeds(node: Any, where: str) -> list[int]:
    seeds = _list(node, where, of="whole numbers")
    if odd := [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int)]:
        raise ValueError(f"{where} must list whole numbers, got {odd[0]!r}: write them as [0, 1, 2]")
    return seeds


def _known(node: Any, known: Collection[str], where: str) -> dict[str, Any]:
    """A mapping without its empty keys, all of them ``known``."""
    content = _mapping(node, where, of=f"some of {', '.join(sorted(known))}")
    if unknown := sorted(content.keys() - known):
        raise ValueError(
            f"{where} has unknown keys {', '.join(unknown)}: known are {', '.join(sorted(known))}"
        )
    return {key: value for key, value in content.items() if value is not None}


def _mapping(node: Any, where: str, *, of: str) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        raise ValueError(f"{where} must be a mapping with {of}, got {node!r}")
    for key in node:
        _text(key, f"{where}: a name")
    return {str(key): value for key, value in node.items()}


def _list(node: Any, where: str, *, of: str) -> list[Any]:
    """A list with something in it, nothing twice."""
    if not isinstance(node, list) or not node:
        raise ValueError(f"{where} must be a list of {of}, got {node!r}: write [A, B]")
    refuse_twice(node, where=where)
    return node


def _text(node: Any, where: str) -> str:
    """Text; YAML reads ``no`` and ``on`` as false and true, and 1 as a number, which is text enough."""
    if isinstance(node, bool) or not isinstance(node, (str, int, float)):
        raise ValueError(f"{where} must be text, got {node!r}: put it in quotes")
    return str(node)
