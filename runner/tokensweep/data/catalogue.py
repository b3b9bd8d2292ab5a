"""The problem sets that tokensweep knows: the options of the group ``data`` that read a file."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tokensweep.paths import conf_dir, extension_dirs
from tokensweep.problems.jsonl import JsonlProblems
from tokensweep.registry import build, components


def known_sets() -> dict[str, JsonlProblems]:
    """The shipped sets and those of ``TOKENSWEEP_PATH`` by name, none with a file yet."""
    names = sorted({file.stem for folder in _conf_dirs() for file in (folder / "data").glob("*.yaml")})
    found = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for name in names:
            node = OmegaConf.to_container(compose(overrides=[f"+data={name}"]).data)
            assert isinstance(node, dict)
            source = build({str(key): value for key, value in node.items()})
            if isinstance(source, JsonlProblems):
                found[name] = source
    return found


def is_benchmark(name: str) -> bool:
    """Whether a set is for evaluation: then the group ``eval`` has an option of that name."""
    return any((folder / "eval" / f"{name}.yaml").is_file() for folder in _conf_dirs())


def is_procedural(name: str) -> bool:
    """Whether ``data=NAME`` makes its problems and reads no file."""
    return components("data").get(name, JsonlProblems) is not JsonlProblems


def default_file(store: Path, name: str) -> Path:
    """Where a set is looked for when no path is given."""
    return store / "data" / f"{name}.jsonl"


def _conf_dirs() -> list[Path]:
    return [*(folder / "conf" for folder in extension_dirs()), conf_dir()]
