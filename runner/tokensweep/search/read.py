"""Searches as people write them: on the command line with Hydra's sweep grammar, or in a sweep file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tokensweep.composer import compose_config, parse
from tokensweep.identity import digest
from tokensweep.options import own_words, seeds_of
from tokensweep.plan import LAUNCH_KEYS
from tokensweep.search.space import Parameter, Space, is_searched, parameter_of, read_space
from tokensweep.search.spec import Objective, Pruner, Sampler, Search
from tokensweep.sweepfile import find_sweep, to_overrides
from tokensweep.sweepshape import read_sweep_file, refuse_twice

SETTINGS = ("trials", "sampler", "seed", "pruner", "rung", "warmup", "objective", "stop_evaluation")
_NAMES = {"seed": "sampler_seed", "objective": "objectives"}  # of fields, where people say it shorter


@dataclass(frozen=True)
class Given:
    """A search, and the overrides that concern the command and not the trials."""

    search: Search
    launch: tuple[str, ...]


def search_of_command(
    overrides: Sequence[str],
    *,
    settings: Mapping[str, Any],
    when: Any,
    name: str | None,
    scale: str,
) -> Given:
    """The search of ``tokensweep train -m hydra/sweeper=optuna_pull KEY=VALUE ...``.

    Several values of ``seed`` are replicates, of every other key the space. Raises ValueError naming the key.
    """
    base: list[str] = []
    launch: list[str] = []
    space: list[Parameter] = []
    seeds: tuple[int, ...] = (0,)
    after: list[str] = []  # values behind the choices of the same key; those before them are Hydra's custom
    conditions = read_when(when)
    for text, override in zip(overrides, parse(overrides), strict=True):
        key = override.key_or_group
        if key == "seed":
            seeds = _seeds(override)
        elif is_searched(override):
            space.append(parameter_of(override, when=conditions.get(key)))
        else:
            (launch if _of_launch(key) else base).append(text)
            after += [text] if any(one.key == key for one in space) else []
    if unknown := sorted(set(conditions) - {one.key for one in space}):
        raise ValueError(f"hydra.sweeper.when: {unknown[0]} is not searched: known are {_keys(space)}")
    if not space:
        raise ValueError(
            "hydra/sweeper=optuna_pull needs something to search: give a key several values, such as "
            "'method.token_weights.entropy.fraction=interval(0.05,1.0)' or method=dapo,forking_tokens"
        )
    _check_trials_own(space, after)
    fields = read_settings(settings, where="hydra.sweeper")
    found = Search(
        name=name or "search",
        space=Space(tuple(space)),
        base=tuple(base),
        seeds=seeds,
        scale=scale,
        **fields,
    )
    return Given(found if name else replace(found, name=_name_of(found)), tuple(launch))


def search_of_arguments(overrides: Sequence[str]) -> Given | None:
    """The search that these overrides of ``train`` ask for; None without ``hydra/sweeper=optuna_pull``.

    For who reads a command line without running Hydra. Raises ValueError as :func:`search_of_command` does.
    """
    if "hydra/sweeper=optuna_pull" not in overrides:
        return None
    from tokensweep.compose import explain, register_components

    register_components()
    try:
        return _search_of_arguments(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, command="train", overrides=overrides)) from error


def _search_of_arguments(overrides: Sequence[str]) -> Given:
    own = [text for text in overrides if not text.lstrip("+").startswith("hydra")]
    settings: dict[str, Any] = {}
    given = [text.lstrip("+") for text in overrides]
    for override in parse([text for text in given if text.startswith("hydra.sweeper.")]):
        settings[override.key_or_group.removeprefix("hydra.sweeper.")] = override.value()
    when = read_when(settings.pop("when", {}))
    for key in [key for key in settings if key.startswith("when.")]:
        when[key.removeprefix("when.")] = settings.pop(key)
    plain = [text for text, one in zip(own, parse(own), strict=True) if not is_searched(one)]
    base = compose_config(plain)
    return search_of_command(own, settings=settings, when=when, name=base.sweep, scale=base.scale)


def search_of_file(
    name: str, *, scale: str, seeds: Sequence[int] | None, overrides: Sequence[str]
) -> Given | None:
    """The search of a sweep file at one scale; None for a file without ``search``.

    Raises ValueError that names the file and the key.
    """
    path = find_sweep(name)
    content = read_sweep_file(path)
    if "search" not in content:
        return None
    scales = content["scales"]
    if scale not in scales:
        raise ValueError(
            f"{path} has no scale {scale!r}: choose scale=NAME from {', '.join(map(str, scales))}"
        )
    at_scale = scales[scale]
    node = {**content["search"], **at_scale.get("search", {})}
    base = {**content.get("base", {}), "scale": scale, **at_scale.get("base", {})}
    refuse_twice(seeds or (), where="seeds=")
    own, launch = _split(overrides)
    where = f"{path}: search"
    space = read_space(node.get("space"), where=f"{where}.space")
    _check_trials_own(space.parameters, own)
    settings = {key: value for key, value in node.items() if key != "space"}
    found = Search(
        name=f"{path.stem}-{scale}",
        space=space,
        base=(*to_overrides(base), *own),
        seeds=tuple(seeds or at_scale.get("seeds") or content["seeds"]),
        scale=scale,
        paper=content.get("paper", ""),
        question=content.get("question", ""),
        note=at_scale.get("note", content.get("note", "")),
        **read_settings(settings, where=where),
    )
    return Given(found, tuple(launch))


def load_search(name: str, overrides: Sequence[str]) -> Given | None:
    """The search of a sweep file; None for a file of arms. ``trials=N`` replaces its number of trials."""
    own, rest = own_words(overrides)
    trials = [text.removeprefix("trials=") for text in rest if text.startswith("trials=")]
    rest = [text for text in rest if not text.startswith("trials=")]
    given = search_of_file(name, scale=own["scale"], seeds=seeds_of(own["seeds"]) or None, overrides=rest)
    if given is None:
        return None
    if own["arms"]:
        raise ValueError(f"{name} is a search, whose arms are its trials: leave arms= out")
    search = replace(given.search, name=own["sweep"]) if own["sweep"] else given.search
    if trials:
        if not trials[-1].isdecimal():
            raise ValueError(f"trials= must be a whole number, as in trials=40, got {trials[-1]!r}")
        search = replace(search, trials=int(trials[-1]))
    return replace(given, search=search)


def read_settings(node: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The fields of :class:`Search` that say how it is searched. Raises ValueError naming the key."""
    if unknown := sorted(set(node) - set(SETTINGS)):
        raise ValueError(f"{where} has unknown keys {', '.join(unknown)}: known are {', '.join(SETTINGS)}")
    fields = {_NAMES.get(key, key): value for key, value in node.items() if value is not None}
    for key, kind in (("sampler", Sampler), ("pruner", Pruner)):
        if key in fields:
            fields[key] = _one_of(kind, fields[key], where=f"{where}.{key}")
    if "objectives" in fields:
        given = fields["objectives"]
        several = given if isinstance(given, (list, tuple)) else [given]
        fields["objectives"] = tuple(_one_of(Objective, one, where=f"{where}.objective") for one in several)
    for key in ("trials", "sampler_seed", "rung", "warmup"):
        value = fields.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int):
            named = "seed" if key == "sampler_seed" else key
            raise ValueError(f"{where}.{named} must be a whole number, got {value!r}")
    share = fields.get("stop_evaluation", 0.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise ValueError(f"{where}.stop_evaluation must be a number, got {share!r}")
    return fields


def _one_of(kind: Any, value: Any, *, where: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{where} must be one of {', '.join(kind)}, got {value!r}") from None


def _name_of(search: Search) -> str:
    """A name of everything that makes another search, as the number of trials does not."""
    told = {key: value for key, value in search.as_json().items() if key not in ("name", "trials")}
    return f"search-{digest({**told, 'base': sorted(search.base)})[:8]}"


def read_when(node: Any) -> dict[str, Mapping[str, Any]]:
    """``hydra.sweeper.when`` of a command line. Raises ValueError for anything but KEY: {KEY: VALUE}."""
    node = {} if node is None else node
    if not isinstance(node, Mapping) or not all(isinstance(one, Mapping) for one in node.values()):
        raise ValueError(
            "hydra.sweeper.when must be a mapping of KEY to {KEY: VALUE or [VALUES]}, such as "
            f"{{method.ratio.p: {{method: holderpo}}}}, got {node!r}"
        )
    return dict(node)


def _seeds(override: Override) -> tuple[int, ...]:
    if override.is_interval_sweep():
        raise ValueError(
            "seed cannot be searched, as a lucky one would win: seed=0,1,2 are replicates, got "
            f"{override.input_line}"
        )
    values: list[Any] = list(override.sweep_iterator()) if is_searched(override) else [override.value()]
    if odd := [value for value in values if isinstance(value, bool) or not isinstance(value, int)]:
        raise ValueError(f"seed must be whole numbers, as in seed=0,1,2, got {odd[0]!r}")
    return tuple(values)


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides that trials start from, and those that concern the command. Raises ValueError."""
    try:
        parsed = parse(overrides)
    except HydraException as error:
        raise ValueError(str(error)) from error
    if several := [str(one.input_line) for one in parsed if is_searched(one)]:
        raise ValueError(
            f"a file's space is searched, got {several[0]}: give one value, or write it into the file"
        )
    parts: tuple[list[str], list[str]] = ([], [])
    for text, one in zip(overrides, parsed, strict=True):
        parts[_of_launch(one.key_or_group)].append(text)
    return parts


def _check_trials_own(space: Sequence[Parameter], given: Sequence[str]) -> None:
    """Raise ValueError for a searched key that is no trial's, or that was ``given`` a value."""
    fixed = {one.key_or_group: str(one.input_line) for one in parse(given)}
    for one in space:
        if _of_launch(one.key):
            raise ValueError(
                f"{one.key} cannot be searched, as it is the command's, not a trial's: give one value"
            )
        if one.key in fixed:
            raise ValueError(
                f"{one.key} is searched, so {fixed[one.key]} would mean nothing: take one of both out"
            )


def _of_launch(key: str) -> bool:
    return key.partition(".")[0] in LAUNCH_KEYS


def _keys(space: Sequence[Parameter]) -> str:
    return ", ".join(one.key for one in space) or "none"
