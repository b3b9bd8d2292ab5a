"""What makes two runs the same run, and two evaluations the same evaluation.

A run is identified by what can change its numbers: the identity keys of its config, the content of its
data and model, and the code. Where it runs, where it writes and how it is evaluated do not count. Values
that equal the schema's default are left out of the hash, so a new key with a neutral default changes no
old identity, and so are a component's labels (where a file lies, where it is from, what it must hold): its
content is hashed instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tokensweep.config import NEUTRAL_SLOTS, RunConf
from tokensweep.paths import extension_dirs
from tokensweep.registry import KIND, defaults_of, labels_of

SCHEMA_VERSION = 1  # raise when the meaning or the default of an identity key changes

_IDENTITY_KEYS = ("seed", "steps", "method", "model", "data", "rollout", "sampling", "batch", "optim")
_NEUTRAL = {
    "prompt": {KIND: "prompt/model"},
    "trainable": {KIND: "trainable/full"},
}  # came after the first runs
_LABELS = ("name", "paper", "evidence", "applies_to")  # of the method: say where it is from, not what it does
_TRAINING_CODE = (
    "loss",
    "methods",
    "models",
    "problems",
    "rollout",
    "train",
    "registry.py",
    "seeds.py",
    "verifier",
)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity_of(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a frozen config that decides what is computed, without values at their default."""
    defaults = _run_defaults()
    kept = {key: frozen[key] for key in _IDENTITY_KEYS}
    kept["method"] = {
        key: value
        for key, value in frozen["method"].items()
        if key not in _LABELS and value != NEUTRAL_SLOTS.get(key)
    }
    stripped = {key: _without_defaults(kept[key], defaults[key]) for key in _IDENTITY_KEYS if key != "seed"}
    return {
        "seed": frozen["seed"],
        "dtype": frozen["compute"]["dtype"],
        **stripped,
        **prompt_identity(frozen),
        **_unless_neutral("trainable", frozen),
        **_order(frozen["method"]),
    }


def _order(method: Mapping[str, Any]) -> dict[str, Any]:
    """The names of advantage shapers where there are several: they apply in turn, and a hash sorts keys."""
    names = list(method.get("advantage_shapers", {}))
    return {"shaper_order": names} if len(names) > 1 else {}


def prompt_identity(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """``{"prompt": ...}`` where prompts are wrapped otherwise than the model says, else nothing."""
    return _unless_neutral("prompt", frozen)


def _unless_neutral(key: str, frozen: Mapping[str, Any]) -> dict[str, Any]:
    """A component of the config under its key; nothing where it changes nothing or an old config lacks it."""
    node = frozen.get(key)
    known = _without_defaults(node, None) if node else _NEUTRAL[key]
    return {} if known == _NEUTRAL[key] else {key: known}


@cache
def _run_defaults() -> Mapping[str, Any]:
    """What the schema says of every key; asked for once per process, as a plan hashes many runs."""
    defaults = OmegaConf.to_container(OmegaConf.structured(RunConf), resolve=False, enum_to_str=True)
    assert isinstance(defaults, dict)
    return {str(key): value for key, value in defaults.items()}


def _without_defaults(node: Any, defaults: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    if KIND in node:
        defaults = {**defaults_of(node), KIND: None}
        node = {key: value for key, value in node.items() if key not in labels_of(node)}
    known = defaults if isinstance(defaults, Mapping) else {}
    kept = {}
    for key, value in node.items():
        if key in known and known[key] == value:
            continue
        kept[key] = _without_defaults(value, known.get(key))
    return kept


@cache
def code_sha() -> str:
    """SHA-256 over the source of everything that can change a trained weight, extensions included."""
    return code_sha_of(Path(__file__).parent, extension_dirs())


def code_sha_of(package: Path, extensions: Iterable[Path]) -> str:
    """What :func:`code_sha` is in a process that imports this package and has these extensions."""
    hasher = hashlib.sha256()
    for name, path in training_sources(package, extensions):
        hasher.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def training_sources(package: Path, extensions: Iterable[Path]) -> list[tuple[str, Path]]:
    """The files whose content is hashed, each with the name it has in the hash."""
    files = [path for entry in _TRAINING_CODE for path in _sources(package / entry)]
    named = [(path.relative_to(package).as_posix(), path) for path in files]
    return named + [(path.name, path) for folder in extensions for path in _sources(folder / "methods")]


def _sources(path: Path) -> list[Path]:
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def run_id(identity: Mapping[str, Any], *, data_hash: str, model_revision: str, code: str) -> str:
    """``<what is computed>-<from which content and code>``, twice eight hexadecimal digits."""
    contents = [SCHEMA_VERSION, dict(identity), data_hash, model_revision]
    return f"{digest(contents)[:8]}-{digest([contents, code])[:8]}"


def eval_id(*, subject: str, step: int | None, suite_hash: str, decoding: Mapping[str, Any]) -> str:
    """Identity of an evaluation: who is asked what, and how.

    The number of samples is no part of it, so more can be added; nor is the grader, which stands in every
    sample row, so a better grader reads the stored texts instead of sampling again.
    """
    return digest([SCHEMA_VERSION, subject, step, suite_hash, dict(decoding)])[:8]


def verify_code(run_dir: Path) -> None:
    """Raise ValueError when the code that would train is not the code that the run was planned with."""
    planned = read_json(run_dir / "plan.json")["code_sha"]
    if code_sha() != planned:
        raise ValueError(
            f"the code changed after the run was planned (now {code_sha()[:12]}, planned {planned[:12]}): "
            "give the command again, which plans a run of the code as it is"
        )


def verify(run_dir: Path) -> dict[str, Any]:
    """The frozen config of a run folder, proven to be the one that was planned.

    Raises ValueError when ``config.json`` is unreadable or does not match the hash in ``plan.json``.
    """
    plan = read_json(run_dir / "plan.json")
    frozen = read_json(run_dir / "config.json")
    if digest(frozen) != plan["config_sha"]:
        raise ValueError(
            f"{run_dir / 'config.json'} was changed after it was planned (hash {digest(frozen)[:12]}, "
            f"planned {plan['config_sha'][:12]}): plan the changed config as a run of its own"
        )
    return frozen


def _replaced(path: Path) -> str:
    """How to get another file of that name. A run without its plan.json is planned again as it stands."""
    if path.name in ("plan.json", "config.json"):
        return (
            "delete plan.json in its folder and give the command of the run or sweep again: it writes both, "
            "and training and samples stay"
        )
    return "remove its folder and plan again"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError that names the file when it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder is no complete run or sweep folder") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or {_replaced(path)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
