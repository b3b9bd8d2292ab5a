"""From Hydra overrides to a frozen config: composed once, resolved, checked, plain JSON ever after."""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokensweep import config as schema
from tokensweep.composer import Composer, compose_config, parse
from tokensweep.loss.method import Method, build_method, inert_keys
from tokensweep.models.hf import is_hub_id
from tokensweep.names import check_name
from tokensweep.paths import conf_dir, default_store, extension_dirs
from tokensweep.problems.mixture import nodes_of, tested
from tokensweep.redact import refuse_secrets
from tokensweep.registry import KIND, build
from tokensweep.rollout.protocol import SamplingSpec
from tokensweep.rollout.rules import check_rule
from tokensweep.stacking import check_stack, filled, labels

Frozen = dict[str, Any]

_PARTS_KEPT = 256  # a few kB each
_SET = "the name of a problem set"


def register_components() -> None:
    """Import every module that declares components, the user's own in ``TOKENSWEEP_PATH`` included."""
    import tokensweep.methods
    import tokensweep.models
    import tokensweep.problems
    import tokensweep.rollout  # noqa: F401  the imports register

    for folder in extension_dirs():
        for path in sorted((folder / "methods").glob("*.py")):
            _import_file(path)


def _import_file(path: Path) -> None:
    name = f"tokensweep_extension_{path.stem}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses look their module up
    spec.loader.exec_module(module)


def freeze_run(overrides: Sequence[str]) -> Frozen:
    """The frozen config of one run, checked as far as is possible before it starts.

    Raises ValueError (or Hydra's ConfigCompositionException) that names the key, what must hold and what
    to do: unknown keys, wrong types, values out of range, slots filled twice, keys that a schedule drives
    and keys that have no effect as the method stands.
    """
    return Freezer().freeze(overrides)


def check_presets(overrides: Sequence[str]) -> None:
    """Raise ValueError for method presets that are not there or undo each other.

    For what Hydra composes by itself. Overrides that cannot be parsed are left for it to refuse.
    """
    with suppress(HydraException):
        check_stack(parse(overrides), preset=filled)


class Freezer:
    """Freezes the runs of a sweep: what they have in common is composed, read and built once.

    One per plan: configuration files and components may have changed before the next.
    """

    def __init__(self) -> None:
        self._composer = Composer()
        self._parts = Parts()
        self._filled = cache(filled)

    def freeze(self, overrides: Sequence[str]) -> Frozen:
        """What :func:`freeze_run` gives, and its errors."""
        parsed = parse(overrides)
        stack = check_stack(parsed, preset=self._filled)
        frozen = resolve(self._composer.compose(parsed), parts=self._parts)
        if len(stack) > 1:
            frozen["method"] |= labels(stack, given=parsed)
        method = self._parts.method(frozen["method"])
        if frozen["batch"]["group_size"] < method.advantage.smallest_group:
            raise ValueError(
                f"batch.group_size must be at least {method.advantage.smallest_group} for the advantage "
                f"{type(method.advantage).__name__}, which compares the rollouts of a prompt, got "
                f"{frozen['batch']['group_size']}: raise it, or choose method/advantage=reinforce_pp"
            )
        if method.minibatch.keeps_groups and method.updates_per_batch > frozen["batch"]["prompts"]:
            raise ValueError(
                f"method.updates_per_batch must be at most batch.prompts={frozen['batch']['prompts']} where "
                f"mini-batches keep groups whole ({type(method.minibatch).__name__}), got "
                f"{method.updates_per_batch}: lower it, or choose method/minibatch=shuffled"
            )
        method.allocation.check_group_size(frozen["batch"]["group_size"])
        _check_support(method, frozen["sampling"])
        _check_rules(method, frozen, parts=self._parts)
        _check_overridden_keys(parsed, schedules=frozen["method"]["schedules"], inert=inert_keys(method))
        return frozen

    def check_source(self, frozen: Frozen) -> None:
        """Raise ValueError where a component of the method can do nothing with the problems of the run."""
        source = self._parts.component("data", frozen["data"])
        for _, part in self._parts.method(frozen["method"]).parts():
            part.check_source(source)


class Parts:
    """Builds components and methods of frozen configs; equal nodes share one object, which is frozen, too."""

    def __init__(self) -> None:
        self._component = lru_cache(_PARTS_KEPT)(lambda text: build(json.loads(text)))
        self._method = lru_cache(_PARTS_KEPT)(lambda text: build_method(json.loads(text)))

    def component(self, where: str, node: Mapping[str, Any]) -> Any:
        """The component of a node. Raises ValueError naming the key ``where`` it stands."""
        try:
            return self._component(json.dumps(node))
        except ValueError as error:
            raise ValueError(f"{where} ({node.get(KIND)}): {error}") from error

    def method(self, node: Mapping[str, Any]) -> Method:
        """The method of a node. Raises ValueError as :func:`tokensweep.loss.method.build_method` does."""
        try:
            return self._method(json.dumps(node))  # in the order of the keys, which a method goes by
        except ValueError as error:
            raise ValueError(f"method: {error}") from error


def resolve(cfg: DictConfig, *, parts: Parts | None = None) -> Frozen:
    """Plain JSON values of a composed config with the held-out suite, paths and store filled in.

    ``parts`` remembers what was built for other runs of the sweep.
    Raises ValueError for a missing value, an interpolation that leads nowhere, a value out of range, and a
    secret, which no config may hold.
    """
    parts = parts or Parts()
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise ValueError(
                f"these keys need a value: {', '.join(missing)}. Give each as KEY=VALUE"
            ) from error
        raise ValueError(f"{error}") from error
    frozen: Frozen = json.loads(json.dumps(plain))
    if odd := next(_not_finite(frozen), None):
        raise ValueError(f"{odd[0]} must be a finite number, got {odd[1]}")
    refuse_secrets(frozen)
    frozen["store"] = str(_absolute(frozen["store"]) if frozen["store"] else default_store())
    _fill_suites(frozen, parts)
    schema.check_ranges(frozen)
    _check_components(frozen, parts)
    return frozen


def _not_finite(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Numbers that JSON does not have, each with its key."""
    if isinstance(node, float) and not math.isfinite(node):
        yield key, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _not_finite(child, f"{key}.{name}" if key else str(name))


def _fill_suites(frozen: Frozen, parts: Parts) -> None:
    """Add the held-out suite, hand ``eval.path`` to the suites that read a file, make paths absolute."""
    settings, data = frozen["eval"], frozen.get("data")
    if data and settings["held_out"]:
        parts.component("data", data)
        of = tested(data)
        settings["suites"].setdefault(parts.component("data", of).name, _held_out(of, settings))
    for name, suite in settings["suites"].items():
        if settings["path"] and "path" in suite:
            given = _absolute(settings["path"])
            suite["path"] = str(given / f"{name}.jsonl" if given.is_dir() else given)
    sources = [*(nodes_of(data) if data else ()), *settings["suites"].values()]
    for node in sources:
        _fill_files(node, folder=Path(frozen["store"]) / "data")
    model = frozen.get("model")
    here = [] if model is None or _on_hub(model) else [model]
    for node in [*here, *sources]:
        if node.get("path"):
            node["path"] = str(_absolute(node["path"]))
    if data and data.get("selection"):
        data["selection"] = str(_absolute(data["selection"]))


def _held_out(data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The test split of the training data as ``eval.held_out`` and ``eval.held_out_skip`` have it."""
    suite = {**data, "split": "test", "size": settings["held_out"]}
    if "skip" in data:
        return {**suite, "skip": settings["held_out_skip"]}
    if settings["held_out_skip"]:
        raise ValueError(
            f"eval.held_out_skip must be 0 for {data[KIND]}, which cannot skip problems, got "
            f"{settings['held_out_skip']}: give it a field skip, or evaluate on another suite (eval=NAME)"
        )
    return suite


def _fill_files(node: dict[str, Any], *, folder: Path) -> None:
    """A known set without a path lies in the store; so do those that ``exclude`` names."""
    if node.get("hub") and not node["path"]:
        node["path"] = str(folder / f"{check_name(node['name'], what=_SET)}.jsonl")
    if "exclude" in node:
        node["exclude"] = [
            str(
                _absolute(entry)
                if entry.endswith(".jsonl")
                else folder / f"{check_name(entry, what=_SET)}.jsonl"
            )
            for entry in node["exclude"]
        ]


def _on_hub(model: Mapping[str, Any]) -> bool:
    """Whether the model's path is a hub id: OWNER/NAME with a commit, or of no folder here."""
    path = model.get("path", "")
    return is_hub_id(path) and bool(model.get("commit") or not Path(path).is_dir())


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _check_components(frozen: Frozen, parts: Parts) -> None:
    """Build every component once: range errors of their fields belong before the start."""
    for where in ("model", "data", "rollout", "prompt", "trainable"):
        if frozen.get(where):
            parts.component(where, frozen[where])
    for name, suite in frozen["eval"]["suites"].items():
        parts.component(f"eval.suites.{name}", suite)
    if "method" in frozen:
        parts.method(frozen["method"])
    check_eval_rule(frozen, parts=parts)


def check_eval_rule(config: Mapping[str, Any], *, parts: Parts | None = None) -> None:
    """Raise ValueError for an ``eval.rule`` that its other settings or the engine do not go with."""
    parts, settings = parts or Parts(), config["eval"]
    if not settings.get("rule"):
        return
    given = {key: settings[key] for key in ("temperature", "top_p", "top_k")}
    sampling = SamplingSpec(**given, max_tokens=settings["max_tokens"] or 1)
    engine = parts.component("rollout", config["rollout"])
    check_rule(parts.component("eval.rule", settings["rule"]), sampling, engine=engine, where="eval.rule")


def _check_support(method: Method, sampling: Mapping[str, Any]) -> None:
    """With top-p or top-k, the sampler's log-probabilities are of fewer tokens than the trainer's."""
    readers = [where for where, part in method.parts() if "sampler_logprobs" in part.needs]
    if readers and (sampling["top_p"] != 1 or sampling["top_k"] != 0):
        raise ValueError(
            f"{' and '.join(readers)} must compare sampler and trainer over all tokens, got sampling.top_p="
            f"{sampling['top_p']:g} and sampling.top_k={sampling['top_k']}: the sampler would give its few "
            "tokens more than the trainer does, which is no mismatch; set them to 1 and 0"
        )


def _check_rules(method: Method, frozen: Frozen, *, parts: Parts) -> None:
    """Rules of the method's own rollouts go with how they are drawn, and with the engine."""
    spec = SamplingSpec(**{**frozen["sampling"], "stop": ()})
    engine = parts.component("rollout", frozen["rollout"])
    for rule in dict.fromkeys(method.sampling.rules(frozen["batch"]["group_size"])):
        if rule is not None:
            check_rule(rule, spec, engine=engine, where="method.sampling")


def _check_overridden_keys(
    parsed: Sequence[Override], *, schedules: Mapping[str, Any], inert: Mapping[str, str]
) -> None:
    """An override that a schedule would overwrite, or that nothing reads, is an error and no surprise."""
    driven = {f"method.{node['path']}": name for name, node in schedules.items()}
    for override in parsed:
        key = override.key_or_group
        if override.is_delete():
            continue
        if key in driven:
            name = driven[key]
            raise ValueError(
                f"{key} is driven by the schedule {name!r}: change method.schedules.{name}, "
                f"or drop it with '~method.schedules.{name}'"
            )
        if key.removeprefix("method.") in inert and key.startswith("method."):
            raise ValueError(f"{key} has no effect here: {inert[key.removeprefix('method.')]}")


def explain(error: Exception, *, command: str, overrides: Sequence[str] = ()) -> str:
    """A composition error of Hydra or OmegaConf with the nearest key that exists and where to look.

    ``overrides`` are those of the command: what they select decides which keys there are.
    """
    text = str(error).replace("\n", "\n  ")
    if "INTERVAL_SWEEP" in text:
        return "interval() is for a search, whose values Optuna chooses: add -m hydra/sweeper=optuna_pull"
    match = re.search(r"Could not override '([^']+)'", text)
    if match and match[1].startswith("eval.rule."):
        return f"{match[1]} is a key of a sampling rule, and there is none: choose it with eval/rule=NAME"
    if match is None:
        cause = str(error.__cause__ or "").strip().partition("\n")[0]
        reason = f": {cause}" if cause and cause not in text else ""
        return f"{text}{reason}\n  all keys and groups: tokensweep {command} --help"
    known = _known_keys(match[1], command=command, overrides=overrides)
    parent, _, name = match[1].rpartition(".")
    names = [key.rpartition(".")[2] for key in known if parent and key.rpartition(".")[0] == parent]
    near = [f"{parent}.{close}" for close in difflib.get_close_matches(name, names)]
    near = near or ([] if names else difflib.get_close_matches(match[1], known))
    hint = f"the keys are in {conf_dir() / command}.yaml"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"{parent} has {', '.join(key for key in names if key != KIND)}."
    return f"no key or group {match[1]!r}: {hint} All of them: tokensweep {command} --help"


def _known_keys(missing: str, *, command: str, overrides: Sequence[str]) -> list[str]:
    """All keys of the config that the other overrides give, or of the default one; or of a search."""
    if missing.startswith("hydra.sweeper."):
        from tokensweep.search.read import SETTINGS

        return sorted(f"hydra.sweeper.{key}" for key in (*SETTINGS, "when"))
    others = [text for text in overrides if "=" in text and text.lstrip("+~").partition("=")[0] != missing]
    try:
        composed = compose_config(others, name=command)
    except (HydraException, OmegaConfBaseException):
        composed = compose_config([], name=command)  # something else is wrong, too
    return sorted(_keys(OmegaConf.to_container(composed, resolve=False)))


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node]
    return own + [key for name, child in node.items() for key in _keys(child, f"{prefix}{name}.")]
