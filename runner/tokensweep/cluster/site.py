"""Sites: what is true of a cluster and of nothing else, one YAML file each in ``slurm/sites`` or ``./sites``.

A site never holds anything of an experiment. What a run needs beyond the site's defaults is in its config,
under ``resources``; both together are the request that SLURM gets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokensweep.paths import site_dirs
from tokensweep.redact import redact

STAGES = ("train", "evaluate", "report")
_SECRET = re.compile(
    r"\b\w*(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|CREDENTIAL)\w*\s*=\s*['\"]?[^\s'\"$]", re.IGNORECASE
)
_HOUR_MIN = 60
_OF_A_GPU = ("gpu_mem_gb", "gpu_tflops", "gpu_bandwidth_gb_s")


@dataclass
class StageDefaults:
    """What the jobs of a stage ask for where a run says nothing; null: as for training."""

    partition: str | None = None
    qos: str | None = None
    gpus: int | None = None  # per node
    cpus: int | None = None  # per node
    mem_gb: float | None = None  # per node
    hours: float | None = None


@dataclass
class Site:
    """A cluster. Keys that are null are not said to SLURM."""

    name: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None  # nodes
    gpu_type: str | None = None  # as in --gpus-per-node=TYPE:N
    gpu_mem_gb: float | None = None  # of one GPU, as it is sold: what `tokensweep plan train` plans with
    gpu_tflops: float | None = None  # of one GPU in bfloat16 without sparsity, as its data sheet says
    gpu_bandwidth_gb_s: float | None = None  # of its memory, as its data sheet says
    gpus: int = 1  # per node of a run
    cpus_per_gpu: int = 8
    mem_gb_per_gpu: float | None = 64.0
    cpus: int | None = None  # per node, instead of cpus_per_gpu
    mem_gb: float | None = None  # per node, instead of mem_gb_per_gpu
    hours: float = 24.0  # time limit of a job
    evaluate: StageDefaults = field(default_factory=StageDefaults)
    report: StageDefaults = field(
        default_factory=lambda: StageDefaults(gpus=0, cpus=2, mem_gb=8.0, hours=0.5)
    )
    max_parallel: int = 0  # runs at a time; 0: as many as the cluster lets
    signal_s: int = 120  # a job is asked to stop so many seconds before its time limit
    restarts: int = 1  # of a worker that was killed or hung, within its job
    setup: list[str] = field(default_factory=list)  # shell lines before the worker: modules, venv, container
    python: str | None = None  # on the nodes; null: the interpreter that submits
    srun_args: list[str] = field(default_factory=list)
    sbatch: dict[str, str] = field(default_factory=dict)  # further options, without dashes
    scratch: str | None = None  # TMPDIR of the workers, a folder on the node
    proxy: str | None = None  # http(s)_proxy of the workers
    offline: bool = True  # nodes have no internet: Hugging Face libraries don't try
    group: str | None = None  # Unix group that may read the store; null: nobody else
    gpu_hour_price: float | None = None
    currency: str = "EUR"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one kind of job asks of SLURM. Runs with equal requests go into one array."""

    partition: str | None
    qos: str | None
    nodes: int
    gpus: int  # per node
    cpus: int  # per node
    mem_gb: float | None  # per node
    minutes: int
    ranks: int = 1  # worker processes per node: one per GPU in training

    @property
    def device_hours(self) -> float:
        """GPU-hours of one job that uses its whole time limit; CPU-hours where there is no GPU."""
        return self.nodes * (self.gpus or self.cpus) * self.minutes / _HOUR_MIN


def load_site(name: str | None) -> Site:
    """The site of a name or a YAML file.

    Raises ValueError that lists what there is, or that names the file and the key it does not understand.
    """
    path = _find(name)
    try:
        content = yaml.safe_load(path.read_text()) or {}
        site = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Site), content))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: {reason}; the keys of a site are {', '.join(_keys())}") from None
    assert isinstance(site, Site)
    site.name = site.name or path.stem
    _check(site, path)
    return site


def _keys() -> list[str]:
    return [key for key in Site.__dataclass_fields__ if key != "name"]


def _find(name: str | None) -> Path:
    known = sorted({path.stem for folder in site_dirs() if folder.is_dir() for path in folder.glob("*.yaml")})
    listed = f"known are {', '.join(known)}; or give a YAML file, such as slurm/sites/example.yaml"
    if not name:
        raise ValueError(f"hydra/launcher=slurm needs site=NAME: {listed}")
    if Path(name).suffix in {".yaml", ".yml"}:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"no site file {path}: {listed}")
        return path
    found = [
        folder / f"{name}.yaml"
        for folder in site_dirs()
        if name in known and (folder / f"{name}.yaml").is_file()
    ]
    if not found:
        raise ValueError(f"no site {name!r}: {listed}")
    return found[0]


def _check(site: Site, path: Path) -> None:
    """Values in range, and no secret in what goes into every job script."""
    for key in _keys():
        value = getattr(site, key)
        if isinstance(value, str) and not value.isprintable():
            raise ValueError(f"{path}: {key} must be one line of printable characters, got {value!r}")
    at_least = {"gpus": 0, "cpus_per_gpu": 1, "hours": 0.01, "max_parallel": 0, "signal_s": 1, "restarts": 0}
    at_least.update({key: 1 for key in _OF_A_GPU if getattr(site, key) is not None})
    for key, low in at_least.items():
        if getattr(site, key) < low:
            raise ValueError(f"{path}: {key} must be at least {low:g}, got {getattr(site, key):g}")
    for stage in STAGES:
        request = site_request(site, stage)
        if site.signal_s >= request.minutes * 60:
            raise ValueError(
                f"{path}: signal_s must be shorter than the time limit of {stage} ({request.minutes} min), "
                f"got {site.signal_s} s"
            )
    for line in [*site.setup, *site.srun_args, *site.sbatch.values(), site.proxy or ""]:
        if _SECRET.search(line) or redact(line) != line:
            raise ValueError(
                f"{path}: a secret must not stand in a site file, which goes into every job script: put it "
                "into a file that only you can read and let setup say '. FILE', or export it beforehand"
            )


def site_request(site: Site, stage: str, wanted: Mapping[str, Any] | None = None) -> Request:
    """What a job of a stage asks for: what the run says, else the site of the stage, else the site.

    ``wanted`` is the run's ``resources.<stage>``.
    """
    own = wanted or {}
    of_stage = StageDefaults() if stage == "train" else getattr(site, stage)

    def first(key: str, default: Any) -> Any:
        given = own.get(key) if own.get(key) is not None else getattr(of_stage, key)
        return default if given is None else given

    gpus = int(first("gpus", site.gpus))
    per_gpu = None if site.mem_gb_per_gpu is None else site.mem_gb_per_gpu * max(1, gpus)
    return Request(
        partition=of_stage.partition or site.partition,
        qos=of_stage.qos or site.qos,
        nodes=int(own.get("nodes") or 1),
        gpus=gpus,
        cpus=int(first("cpus", site.cpus or site.cpus_per_gpu * max(1, gpus))),
        mem_gb=first("mem_gb", site.mem_gb or per_gpu),
        minutes=max(1, round(first("hours", site.hours) * _HOUR_MIN)),
        ranks=max(1, gpus) if stage == "train" else 1,
    )
