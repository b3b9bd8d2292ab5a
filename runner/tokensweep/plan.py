"""Compose, hash, dedupe, freeze: from the jobs of a sweep to run folders that say exactly what will run."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tokensweep.compose import Freezer, Frozen, explain
from tokensweep.conditions import unmet
from tokensweep.entries import write_entries
from tokensweep.files import write_json
from tokensweep.identity import code_sha, digest, eval_id, identity_of, prompt_identity, read_json, run_id
from tokensweep.ledger import Status, read_run
from tokensweep.models.prompts import prompt_of
from tokensweep.names import check_name
from tokensweep.options import default_tracking_uri
from tokensweep.preflight import refuse_overlap, remarks_on
from tokensweep.problems.dates import caution
from tokensweep.registry import KIND, build, without_labels
from tokensweep.store import make_store
from tokensweep.sweepfile import Job, Sweep

# Concern the command and not the run; a tracking URI may hold a password, so it is never written.
LAUNCH_KEYS = ("store", "jobs", "sweep", "code", "tracking", "site", "wait", "resources")
_NOT_OF_AN_ARM = ("seed=", "tracking")  # beginnings of overrides that sweep.json leaves out

_WRITERS = 8  # threads: a run waits for its disk four times, for milliseconds each on a network


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run that is needed: its frozen config and the evaluations asked for.

    Runs of a plan share what is equal in them, so nobody changes these values.
    """

    run_id: str
    config: Frozen
    identity: Mapping[str, Any]
    code: str
    data_hash: str
    model_revision: str
    evals: tuple[Mapping[str, Any], ...]
    remarks: tuple[
        str, ...
    ] = ()  # what a reader must know: what its method lacks, what was left out of its data

    def dir(self, store: Path) -> Path:
        """Its folder."""
        return store / "runs" / self.run_id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A composed sweep. ``entries`` has a row per job; ``runs`` holds each distinct run once."""

    sweep: Sweep
    store: Path
    entries: tuple[Mapping[str, Any], ...]
    runs: tuple[PlannedRun, ...]
    tracking_uri: str
    workers: int
    site: str | None = None  # of a cluster
    wait: bool = False  # follow its jobs

    @property
    def sweep_dir(self) -> Path:
        """Where the sweep keeps its list of runs and its report."""
        return self.store / "sweeps" / self.sweep.name

    def remarks(self) -> list[str]:
        """What a reader must know of its runs, a sentence each."""
        cautions = [entry["caution"] for run in self.runs for entry in run.evals if entry["caution"]]
        told = [*cautions, *(text for run in self.runs for text in run.remarks)]
        return list(dict.fromkeys([*told, *self._without_baseline()]))

    def _without_baseline(self) -> Iterator[str]:
        """Settings whose arms have nothing to be compared with."""
        arms: dict[str, set[str]] = {}
        for entry in self.entries:
            arms.setdefault(entry["setting"], set()).add(entry["arm"])
        for setting, own in arms.items():
            if (baseline := self.sweep.baseline) and baseline not in own:
                yield f"{setting}: the baseline {baseline} is not run, so no arm is compared with it"

    def missing(self) -> list[PlannedRun]:
        """The runs that still have to train or to evaluate, in order."""
        return [run for run in self.runs if not is_complete(run.dir(self.store), run.evals)]


def is_complete(run_dir: Path, evals: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run is trained and has every evaluation with at least the samples asked for."""
    if not (run_dir / "plan.json").is_file():
        return False
    record = read_run(run_dir)
    return record.trained_step is not None and not record.missing(evals)


def make_plan(sweep: Sweep, *, on_progress: Callable[[int], None] | None = None) -> Plan:
    """Compose every job of a sweep and check it; nothing is written.

    Raises ValueError naming the job for the first one that cannot run, or that is planned twice.
    """
    freezer, contents, shared = Freezer(), Contents(), _Shared()
    entries: list[Mapping[str, Any]] = []
    runs: dict[str, PlannedRun] = {}
    config: Frozen = {}
    for done, job in enumerate(sweep.jobs, start=1):
        config = freeze_job(job, freezer)
        run = _plan_run(config, contents, shared)
        runs.setdefault(run.run_id, run)
        entries.append(_entry(job, run, contents))
        if on_progress is not None:
            on_progress(done)
    _refuse_repeats(entries)
    if sweep.factors:
        _refuse_idle_factors(sweep, entries)
    store = Path(config["store"])
    return Plan(
        sweep=sweep,
        store=store,
        entries=tuple(entries),
        runs=tuple(runs.values()),
        tracking_uri=config["tracking"]["uri"] or default_tracking_uri(store),
        workers=config["jobs"],
        site=config["site"],
        wait=config["wait"],
    )


def _refuse_repeats(entries: Iterable[Mapping[str, Any]]) -> None:
    """An arm with one seed twice would look like two runs: its interval too narrow, its seeds enough."""
    seen = set()
    for entry in entries:
        cell = (entry["setting"], entry["arm"], entry["seed"])
        if cell in seen:
            raise ValueError(
                f"{' '.join(map(str, cell[:2]))} seed {cell[2]} is planned twice, and tables would count one "
                "run as two: take one out (seeds of a sweep are given as seeds=0,1,2)"
            )
        seen.add(cell)


def _refuse_idle_factors(sweep: Sweep, entries: Iterable[Mapping[str, Any]]) -> None:
    """Arms of a design that are one run differ by a factor that sets what is there already."""
    arms: dict[tuple[str, str], str] = {}
    for entry in entries:
        other = arms.setdefault((entry["setting"], entry["run_id"]), entry["arm"])
        if other != entry["arm"]:
            differs = [name for name, on in sweep.factors.items() if (other in on) != (entry["arm"] in on)]
            raise ValueError(
                f"the arms {other} and {entry['arm']} must differ, got one run for both: what "
                f"{' and '.join(differs)} sets holds without it, so its effect would be 0; take it out, or "
                "change base"
            )


def freeze_job(job: Job, freezer: Freezer) -> Frozen:
    """The frozen config of a job. Raises ValueError that ends with its overrides."""
    where = f"\n  in the run: {' '.join(job.overrides)}"
    try:
        frozen = freezer.freeze(job.overrides)
        freezer.check_source(frozen)
        return frozen
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, command="train", overrides=job.overrides) + where) from error
    except ValueError as error:
        raise ValueError(f"{error}{where}") from error


class Contents:
    """Content hashes of data and models: each distinct one is checked and read once per plan."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, str]] = {}
        self._remarks: dict[str, tuple[str, ...]] = {}

    def source(self, node: Mapping[str, Any]) -> tuple[Any, str]:
        """The problem source of a config node, checked, and the hash of its content."""
        key = digest(node)
        if key not in self._known:
            source = build(node)
            source.check()
            self._known[key] = (source, source.content_hash())
        return self._known[key]

    def model_revision(self, node: Mapping[str, Any], data_node: Mapping[str, Any]) -> str:
        """Identity of the weights that a model config node stands for."""
        key = digest([node, data_node])
        if key not in self._known:
            data, _ = self.source(data_node)
            self._known[key] = (None, build(node).revision(data=data))
        return self._known[key][1]

    def remarks(self, config: Frozen) -> tuple[str, ...]:
        """What is left out of a run's data; refuses problems that it would both train and be tested on."""
        nodes = config["eval"]["suites"]
        key = digest([config["data"], nodes, config["model"], config.get("prompt")])
        if key not in self._remarks:
            source = self.source(config["data"])[0]
            suites = {name: self.source(node)[0] for name, node in nodes.items()}
            refuse_overlap(source, suites, store=Path(config["store"]))
            self._remarks[key] = remarks_on(config, source, suites)
        return self._remarks[key]


class _Shared:
    """Keeps equal parts of what is planned once: runs of a sweep differ in a few values of a large config."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}

    def __call__(self, node: Any) -> Any:
        """An equal JSON value with the same order of keys, made of parts that others have, too."""
        if not isinstance(node, (dict, list)):
            return node
        key = hashlib.sha256(json.dumps(node).encode()).digest()
        if key not in self._known:
            self._known[key] = (
                {sys.intern(name): self(value) for name, value in node.items()}
                if isinstance(node, dict)
                else [self(value) for value in node]
            )
        return self._known[key]


def _plan_run(config: Frozen, contents: Contents, shared: _Shared) -> PlannedRun:
    source, content = contents.source(config["data"])
    data_hash = digest([content, source.grader])  # the grader gives the rewards
    revision = contents.model_revision(config["model"], config["data"])
    identity = identity_of(config)
    wanted = run_id(identity, data_hash=data_hash, model_revision=revision, code=code_sha())
    if config["code"] == "any":
        wanted = _trained_with_other_code(Path(config["store"]), wanted) or wanted
    evals = plan_evals(config, subject=wanted, step=config["steps"], source_of=contents.source)
    return PlannedRun(
        run_id=wanted,
        config=shared(config),
        identity=shared(identity),
        code=code_sha(),
        data_hash=data_hash,
        model_revision=revision,
        evals=tuple(shared(evals)),
        remarks=(*unmet(config), *contents.remarks(config)),
    )


def _trained_with_other_code(store: Path, wanted: str) -> str | None:
    """The newest finished run that differs from ``wanted`` in nothing but the code."""
    same = [path.parent for path in (store / "runs").glob(f"{wanted.partition('-')[0]}-*/plan.json")]
    trained = [path for path in same if read_run(path).trained_step is not None]
    if any(path.name == wanted for path in trained) or not trained:
        return None
    return max(trained, key=lambda path: (path / "plan.json").stat().st_mtime).name


def plan_evals(
    config: Frozen,
    *,
    subject: str,
    step: int | None,
    source_of: Callable[[Mapping[str, Any]], tuple[Any, str]],
) -> list[dict[str, Any]]:
    """One entry per suite: everything that an evaluation needs to know, and its identity.

    ``subject`` is what is evaluated: a run id, or the revision of a model.
    """
    settings, wrapped, stop = config["eval"], prompt_identity(config), prompt_of(config).stop
    ruled = {"rule": rule} if (rule := settings.get("rule")) else {}  # an older run's settings have no rule
    entries = []
    for name, node in settings["suites"].items():
        check_name(name, what="the name of a suite")
        source, suite_hash = source_of(node)
        sampling = {key: settings[key] for key in ("temperature", "top_p", "top_k", "max_tokens")}
        sampling["max_tokens"] = sampling["max_tokens"] or source.max_tokens
        if stop:
            sampling["stop"] = list(stop)
        decoding = {
            **sampling,
            **wrapped,
            **ruled,
            "seed": settings["seed"],
            "engine": without_labels(config["rollout"]),
            "dtype": config["compute"]["dtype"],
        }
        ident = eval_id(subject=subject, step=step, suite_hash=suite_hash, decoding=decoding)
        entries.append(
            {
                "suite": name,
                "eval_id": ident,
                "source": node,
                "revision": suite_hash[:12],
                "step": step,
                "num_questions": len(source),
                "num_samples": settings["num_samples"],
                "k": settings["k"],
                "tau": settings["tau"],
                "answer_space": source.answer_space,
                "seed": settings["seed"],
                "sampling": sampling,
                "caution": caution(name, node, config["model"]),
                **({"prompt": wrapped} if wrapped else {}),
                **ruled,
            }
        )
    return entries


def _entry(job: Job, run: PlannedRun, contents: Contents) -> dict[str, Any]:
    """A row of sweep.json."""
    return {
        "setting": job.setting or contents.source(run.config["data"])[0].name,
        "arm": job.arm,
        "seed": run.config["seed"],
        "model": _model_label(run.config["model"]),
        "data": contents.source(run.config["data"])[0].name,
        "run_id": run.run_id,
        "overrides": [text for text in job.overrides if not text.lstrip("+").startswith(_NOT_OF_AN_ARM)],
        "evals": {entry["suite"]: entry["eval_id"] for entry in run.evals},
    }


def _model_label(node: Mapping[str, Any]) -> str:
    """What a claim may call the model: its path or hub id, else the name of its kind."""
    return str(node.get("path") or node[KIND].rpartition("/")[2])


def write_plan(plan: Plan, *, group: str | None = None) -> None:
    """Write run folders and the sweep's list; what exists is kept, evaluations are added to it.

    A store that does not exist is made, for its owner alone or for ``group`` to read as well.
    """
    make_store(plan.store, group=group)
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(lambda run: _write_run(run, run.dir(plan.store)), plan.runs):
            pass  # raises what the writing of that run raised
    write_entries(plan.sweep, plan.entries, folder=plan.sweep_dir)


def _write_run(run: PlannedRun, folder: Path) -> None:
    path = folder / "plan.json"
    config = {key: value for key, value in run.config.items() if key not in LAUNCH_KEYS}
    if path.is_file():
        plan = _with_settings(read_json(path), config, folder)
        entries = {entry["eval_id"]: entry for entry in plan["evals"]}
        for entry in run.evals:
            before = entries.get(entry["eval_id"], entry)
            most = max(entry["num_samples"], before["num_samples"])
            entries[entry["eval_id"]] = {
                **entry,
                "num_samples": most,
                "k": sorted({*entry["k"], *before["k"]}),
                "tau": sorted({*entry["tau"], *before.get("tau", ())}),
            }
        if list(entries.values()) != plan["evals"]:
            write_json(path, {**plan, "evals": list(entries.values())})
        return
    write_json(folder / "config.json", config)
    plan = {
        "run_id": run.run_id,
        "config_sha": digest(config),
        "identity": run.identity,
        "code_sha": run.code,
        "data_hash": run.data_hash,
        "model_revision": run.model_revision,
        "steps": run.config["steps"],
        "evals": list(run.evals),
        "created": time.time(),
    }
    write_json(path, plan)  # last: a folder with a plan is complete


def _with_settings(plan: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The plan of a run that nobody works on and that is not done, with the settings of this command.

    They are those outside its identity, such as where it computes: what made an attempt fail can be changed.
    """
    if plan["config_sha"] == (sha := digest(config)):
        return plan  # before any ledger is read: a plan may hold a thousand runs
    record = read_run(folder)
    is_done = record.trained_step is not None and not record.missing(plan["evals"])
    if is_done or record.status == Status.running:
        return plan
    if digest(read_json(folder / "config.json")) not in (plan["config_sha"], sha):
        return plan  # somebody changed the file: the worker says so
    write_json(folder / "config.json", config)
    changed = {**plan, "config_sha": sha}
    write_json(folder / "plan.json", changed)
    return changed
