"""Sweep files: one YAML per paper that names arms, seeds, settings and claims, expanded to jobs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensweep.names import check_label, check_name, printable
from tokensweep.paths import sweep_dirs
from tokensweep.sweepshape import merged_claims, read_sweep_file, refuse_twice


@dataclass(frozen=True)
class Job:
    """One cell of a sweep before composition."""

    setting: str  # jobs are compared within one setting only
    arm: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep before composition: what the table will compare, and the jobs that fill it."""

    name: str
    jobs: tuple[Job, ...]
    scale: str = ""
    paper: str = ""
    question: str = ""
    note: str = ""  # printed with every table
    baseline: str | None = None
    claims: tuple[Mapping[str, Any], ...] = field(default=())
    factors: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # of a factorial design: arms with each

    def __post_init__(self) -> None:
        check_name(self.name, what="the name of a sweep")
        for job in self.jobs:
            check_label(str(job.arm), what="an arm", longest=None)  # a command line's is as long as that
            if job.setting:
                check_label(str(job.setting), what="a setting", longest=None)


def find_sweep(name: str) -> Path:
    """The file of a sweep given by name or by path. Raises ValueError listing what there is."""
    as_path = Path(name).expanduser()
    if as_path.suffix in {".yaml", ".yml"}:
        if not as_path.is_file():
            raise ValueError(f"no sweep file {as_path}: give a path that exists, or the name of a sweep")
        return as_path
    for folder in sweep_dirs():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted(
        {path.stem for folder in sweep_dirs() if folder.is_dir() for path in folder.glob("*.yaml")}
    )
    raise ValueError(f"no sweep {name!r}: known are {', '.join(known)}; or give the path of a YAML file")


def load_sweep(
    name: str,
    *,
    scale: str,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> Sweep:
    """A sweep file at one scale, expanded to settings x arms x seeds.

    ``seeds`` and ``arms`` replace what the file says; ``overrides`` go to every run, last.
    Raises ValueError that names the file and the key for anything it does not understand.
    """
    path = find_sweep(name)
    content = read_sweep_file(path)
    scales = content["scales"]
    if scale not in scales:
        raise ValueError(
            f"{path} has no scale {scale!r}: choose scale=NAME from {', '.join(map(str, scales))}"
        )
    at_scale = scales[scale]
    merged = {**content, **{k: v for k, v in at_scale.items() if k not in {"base", "arms"}}}
    base = {**content.get("base", {}), "scale": scale, **at_scale.get("base", {})}
    refuse_twice(seeds or (), where="seeds=")
    refuse_twice(arms or (), where="arms=")
    chosen = _choose(content["arms"], arms or at_scale.get("arms"), path)
    settings = {
        name: (
            options.get("arms", list(chosen)),
            {key: value for key, value in options.items() if key != "arms"},
        )
        for name, options in merged.get("settings", {"": {}}).items()
    }
    if idle := [arm for arm in chosen if not any(arm in own for own, _ in settings.values())]:
        raise ValueError(
            f"{path} must run every arm in some setting, got none with {', '.join(idle)}: add it to the arms "
            "of a setting, or take it out"
        )
    # Settings vary fastest: the first runs of each one build what the others of it will share.
    cells = itertools.product(seeds or merged["seeds"], chosen.items(), settings.items())
    jobs = tuple(
        Job(setting, arm, (*to_overrides({**base, **options, **changes, "seed": seed}), *overrides))
        for seed, (arm, changes), (setting, (own, options)) in cells
        if arm in own
    )
    return Sweep(
        name=f"{path.stem}-{scale}",
        jobs=jobs,
        scale=scale,
        paper=content.get("paper", ""),
        question=content.get("question", ""),
        note=merged.get("note", ""),
        baseline=content.get("baseline"),
        claims=tuple(map(dict, merged_claims(content, at_scale))),
        factors=content.get("factors", {}),
    )


def _choose(arms: Mapping[str, Any], names: Sequence[str] | None, path: Path) -> dict[str, Any]:
    if names is None:
        return dict(arms)
    missing = [name for name in names if name not in arms]
    if missing:
        raise ValueError(f"{path} has no arm {', '.join(missing)}: known are {', '.join(arms)}")
    return {name: arms[name] for name in names}


def to_overrides(options: Mapping[str, Any]) -> list[str]:
    """Hydra override strings for a mapping of keys to YAML values, groups first."""
    return [f"{key}={_literal(value)}" for key, value in options.items()]


def _literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    plain = text.replace("_", "").replace("-", "").replace(".", "").replace("/", "")
    return text if plain.isalnum() else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def adhoc_sweep(job_overrides: Sequence[Sequence[str]], *, name: str, scale: str) -> Sweep:
    """The sweep that a multirun command line stands for.

    An arm is what varies apart from seed and data; its label is the varying overrides, or the method where
    there are none. ``data`` is the setting, so that only runs on the same problems are compared.
    """
    split = [dict(_split(override) for override in job) for job in job_overrides]
    varying = [
        key
        for key in dict.fromkeys(key for job in split for key in job)
        if len({job.get(key) for job in split}) > 1
    ]
    jobs = []
    for job, overrides in zip(split, job_overrides, strict=True):
        labels = [f"{key.rpartition('.')[2]}={job.get(key)}" for key in varying if _tells_arms_apart(key)]
        label = " ".join(labels) or job.get("method", "").strip("[]").replace(",", "+") or "run"
        jobs.append(Job(job.get("data", ""), printable(label), tuple(overrides)))
    return Sweep(name=name, jobs=tuple(jobs), scale=scale)


def _tells_arms_apart(key: str) -> bool:
    """Whether a key is part of an arm's label: a tracking URI is none of it, and may hold a password."""
    return key not in {"seed", "data"} and not key.lstrip("+").startswith("tracking")


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value
