"""The schema of a run: every key of ``conf/train.yaml``, its type and its default.

Components (method slots, model, data, rollout engine) bring their own schema through the registry; what
stands here is the frame that holds them. Ranges are checked in :func:`check_ranges`, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from tokensweep.registry import KIND

# Slots that came after the first runs: a frozen config may lack them, and is the same run as with these.
NEUTRAL_SLOTS: Mapping[str, Mapping[str, Any]] = {
    "source": {KIND: "method/source/engine"},
    "sampling": {KIND: "method/sampling/plain"},
}


class Code(StrEnum):
    """Whether a finished run of other code counts as done."""

    same = "same"
    any = "any"


@dataclass
class MethodConf:
    """A method is what fills the slots: single slots hold one component, maps hold any number by name."""

    name: str = "grpo"
    paper: str = ""
    evidence: str = "paper"
    applies_to: list[str] = field(default_factory=list)  # conditions that must hold, see tokensweep methods
    updates_per_batch: int = 1
    source: Any = MISSING
    allocation: Any = MISSING
    sampling: Any = MISSING
    reward_terms: dict[str, Any] = field(default_factory=dict)
    advantage: Any = MISSING
    token_rewards: dict[str, Any] = field(default_factory=dict)
    advantage_shapers: dict[str, Any] = field(default_factory=dict)
    token_weights: dict[str, Any] = field(default_factory=dict)
    minibatch: Any = MISSING
    ratio: Any = MISSING
    surrogate: Any = MISSING
    aggregate: Any = MISSING
    regularizers: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)  # see loss.schedule.Schedule


@dataclass
class BatchConf:
    """Sizes of an optimiser batch."""

    prompts: int = 16  # groups that are trained per step
    group_size: int = 8  # rollouts per prompt
    micro_tokens: int = 4096  # prompt and completion tokens of one forward


@dataclass
class SamplingConf:
    """How training rollouts are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    max_tokens: int = MISSING
    stop: list[str] = field(default_factory=list)


@dataclass
class OptimConf:
    """AdamW with linear warm-up; the learning rate is constant afterwards."""

    lr: float = 1e-6
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # global norm; 0: off
    warmup_steps: int = 0


@dataclass
class EvalConf:
    """What is evaluated after training, and how completions are drawn for it."""

    suites: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0  # problems of the training data's own test split
    held_out_skip: int = 0  # problems of it that come before them, and that somebody has looked at already
    path: str | None = None  # JSONL file of the suite, or a folder with <suite>.jsonl
    num_samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None  # null: the suite's own limit
    rule: Any = None  # a sampling rule, see rollout.rules; null: none
    seed: int = 0
    k: list[int] = field(default_factory=lambda: [1, 8])  # of pass@k, maj@k and pass^k
    tau: list[float] = field(default_factory=lambda: [0.5, 0.9])  # of cover@tau


@dataclass
class CheckpointConf:
    every: int = 10  # steps
    keep: int = 1  # newest checkpoints that stay


@dataclass
class StoreRolloutsConf:
    """Rollouts kept with their per-token columns for later analysis."""

    every: int = 10  # steps; 0: never
    share: float = 0.1  # of the rollouts of such a step


@dataclass
class ComputeConf:
    """How a run computes. Not part of its identity, except the number format.

    ``dtype`` is that of the matrix products in training and of its rollouts. Weights, gradients, optimiser
    state and what the loss is made of stay in float32, so that small updates add up; an evaluation loads the
    weights in ``dtype``.
    """

    threads: int = 1
    device: str = "auto"
    dtype: str = "float32"
    activation_checkpointing: bool = False  # the same gradients in less memory, for one forward more
    fused_optimizer: bool = True  # AdamW in one kernel; false: several, the last bits may differ
    hang_s: int = 1800  # a job without a new step or sample for that long is ended; 0: never


@dataclass
class StageResources:
    """What a stage of a run takes on a cluster; null: what the site says."""

    nodes: int = 1
    gpus: int | None = None  # per node; training has a process for each
    cpus: int | None = None  # per node
    mem_gb: float | None = None  # per node
    hours: float | None = None  # time limit; training goes on after it, from its checkpoint


@dataclass
class ResourcesConf:
    """Where a run works on a cluster. Not part of its identity."""

    train: StageResources = field(default_factory=StageResources)
    evaluate: StageResources = field(default_factory=StageResources)


@dataclass
class TrackingConf:
    uri: str = ""  # MLflow; empty: sqlite in the store


@dataclass
class RunConf:
    """One run. ``seed`` fixes data order, sampling and initialisation together."""

    seed: int = 0
    steps: int = 40  # optimiser batches
    method: MethodConf = field(default_factory=MethodConf)
    model: Any = MISSING
    data: Any = MISSING
    prompt: Any = MISSING
    rollout: Any = MISSING
    trainable: Any = MISSING
    sampling: SamplingConf = field(default_factory=SamplingConf)
    batch: BatchConf = field(default_factory=BatchConf)
    optim: OptimConf = field(default_factory=OptimConf)
    eval: EvalConf = field(default_factory=EvalConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    store_rollouts: StoreRolloutsConf = field(default_factory=StoreRolloutsConf)
    compute: ComputeConf = field(default_factory=ComputeConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)
    scale: str = ""
    sweep: str | None = None  # name of the sweep this run belongs to; null: a hash of the overrides
    code: Code = Code.same
    jobs: int = 0  # runs at a time; 0: one per core of this machine, or what the site says
    store: str = ""
    site: str | None = None  # of hydra/launcher=slurm: a name in slurm/sites or ./sites, or a YAML file
    wait: bool = False  # follow the jobs of a cluster until they have ended
    resources: ResourcesConf = field(default_factory=ResourcesConf)


@dataclass
class EvaluateConf:
    """An evaluation without training: of a run (``run=ID``) or of a model (``model=NAME``)."""

    run: str | None = None  # id of a run in the store
    model: Any = None
    data: Any = None
    prompt: Any = MISSING
    rollout: Any = MISSING
    eval: EvalConf = field(default_factory=EvalConf)
    compute: ComputeConf = field(default_factory=ComputeConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)
    store: str = ""


_OF_A_STAGE = (("nodes", 1.0), ("gpus", 0.0), ("cpus", 1.0), ("mem_gb", 0.1), ("hours", 0.02))
_AT_LEAST: tuple[tuple[str, float], ...] = (
    ("steps", 1),
    ("method.updates_per_batch", 1),
    ("batch.prompts", 1),
    ("batch.group_size", 1),
    ("batch.micro_tokens", 1),
    ("sampling.temperature", 0),
    ("sampling.top_k", 0),
    ("sampling.max_tokens", 1),
    ("optim.lr", 0),
    ("optim.weight_decay", 0),
    ("optim.grad_clip", 0),
    ("optim.warmup_steps", 0),
    ("eval.held_out", 0),
    ("eval.held_out_skip", 0),
    ("eval.num_samples", 1),
    ("eval.temperature", 0),
    ("eval.top_k", 0),
    ("eval.max_tokens", 1),
    ("checkpoint.every", 1),
    ("checkpoint.keep", 1),
    ("store_rollouts.every", 0),
    ("compute.threads", 1),
    ("compute.hang_s", 0),
    ("jobs", 0),
    *((f"resources.{stage}.{key}", low) for stage in ("train", "evaluate") for key, low in _OF_A_STAGE),
)
_SHARES = ("sampling.top_p", "eval.top_p")
_DTYPES = ("float32", "bfloat16")


def check_ranges(config: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first key of a frozen config that is out of range."""
    for key, low in _AT_LEAST:
        value = _lookup(config, key)
        if value is not None and value < low:
            raise ValueError(f"{key} must be at least {low:g}, got {value:g}")
    for key in _SHARES:
        value = _lookup(config, key)
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{key} must be in (0, 1], got {value:g}")
    share = _lookup(config, "store_rollouts.share")
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"store_rollouts.share must be in [0, 1], got {share:g}")
    dtype = config["compute"]["dtype"]
    if dtype not in _DTYPES:
        raise ValueError(f"compute.dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    _check_k_and_tau(config["eval"])


def _check_k_and_tau(settings: Mapping[str, Any]) -> None:
    """pass@k, maj@k and pass^k are undefined for k above the number of samples; tau is a share."""
    for k in settings["k"]:
        if not 1 <= k <= settings["num_samples"]:
            raise ValueError(
                f"eval.k must lie between 1 and eval.num_samples={settings['num_samples']}, got {k}: "
                f"pass@{k} needs at least {k} samples per problem; raise eval.num_samples or change eval.k"
            )
    for tau in settings["tau"]:
        if not 0 < tau <= 1:
            raise ValueError(f"eval.tau must be in (0, 1], got {tau:g}: cover@tau counts a share of samples")


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


ConfigStore.instance().store(name="run_schema", node=RunConf, provider=__name__)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConf, provider=__name__)
