"""The Optuna study of a search, as one element sees it: ask, report, tell, and clear up after the dead.

Any number of processes hold the study open at once. Choosing a trial takes turns (a lock in the search's
folder), so a sampler sees every trial that was chosen before, and two elements never get the same one. A
trial belongs to an element by the number that it carries; who dies leaves a trial that runs for ever as far
as Optuna knows, and whoever asks next tells it as failed and puts its values at the head of the queue.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tokensweep.files import write_json
from tokensweep.search.quiet import quietly
from tokensweep.search.space import Value
from tokensweep.search.spec import Pruner, Sampler, Search, arm_of
from tokensweep.search.storage import open_storage, study_name
from tokensweep.seeds import derive_seed

_ELEMENT, _RUNS, _REASON = "element", "runs", "reason"  # attributes of a trial
_AGAIN, _REPEATS, _TRIES = "again", "repeats", "tries"
_MOST_TRIES = 3  # of the same values, when what went wrong is no fault of theirs
_PATIENCE = 200  # values in a row that were tried before, until a space counts as exhausted
_INSISTS = 5  # of those, until the next ones are drawn at random
_REDUCTION = (
    3  # of successive halving: one trial in three gets beyond a rung; Optuna's and Hyperband's default
)
_FIRST_TRIALS = 5  # of the median, before which nothing is pruned; Optuna's default
_OPEN = (TrialState.RUNNING, TrialState.WAITING)
_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that an element works on."""

    number: int
    params: Mapping[str, Value]
    reported: int = 0  # newest training step that the study has heard of

    @property
    def arm(self) -> str:
        """What it is called in tables."""
        return arm_of(self.number)


class Study:
    """A study whose trials are counted, repeated and retried as the module says.

    ``steps`` are the training steps of a trial. Raises ValueError when the storage cannot be used.
    """

    def __init__(self, search: Search, folder: Path, *, steps: int, uri: str = "") -> None:
        self.search, self.folder, self.steps = search, folder, steps
        self._storage = open_storage(folder, uri=uri)
        name = study_name(folder, uri=uri)
        sampler = optuna.samplers.RandomSampler(seed=0)  # replaced before each choice
        with self._taking_turns(), quietly():
            try:  # Optuna's load_if_exists writes first: who reads would wait for the lock of a dead writer
                self._storage.get_study_id_from_name(name)
            except KeyError:
                directions = [_DIRECTIONS[one] for one in search.directions]
                optuna.create_study(
                    study_name=name, storage=self._storage, directions=directions, load_if_exists=True
                )
            self._study = optuna.load_study(
                study_name=name, storage=self._storage, pruner=_pruner(search, steps), sampler=sampler
            )

    def ask(
        self, element: int, *, is_alive: Callable[[int], bool], only_waiting: bool = False
    ) -> Asked | None:
        """The next trial, for ``element``; None when enough are told or at work, or the space is exhausted.

        ``is_alive`` says of another element whether it still works or is going to. With ``only_waiting`` no
        new values are chosen: only those are given out that were left by an element that died.
        """
        with self._taking_turns():
            self._bury(is_alive)
            for repeated in range(_PATIENCE):
                trials = self._study.get_trials(deepcopy=False)
                has_waiting = any(one.state is TrialState.WAITING for one in trials)
                if not has_waiting and (only_waiting or sum(map(_counts, trials)) >= self.search.trials):
                    return None
                sampler = self.search.sampler if repeated < _INSISTS else Sampler.random
                self._study.sampler = _sampler(self.search, sampler, asked=len(trials))
                with quietly():
                    trial = self._study.ask()
                    params = self.search.space.suggest(trial)
                same = _same_values(trials, params, but=trial.number)
                if same is None:
                    trial.set_user_attr(_ELEMENT, element)
                    return Asked(number=trial.number, params=params)
                trial.set_user_attr(_REPEATS, same)
                self._study.tell(trial.number, state=TrialState.FAIL)
                if _all_tried(self._study.get_trials(deepcopy=False), self.search.space.size):
                    return None
        return None

    def resume(self, element: int) -> Asked | None:
        """The trial that an element had when it was last stopped."""
        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if one.user_attrs.get(_ELEMENT) == element:
                return Asked(
                    number=one.number,
                    params=dict(one.params),
                    reported=max(one.intermediate_values, default=0),
                )
        return None

    def running(self) -> dict[int, int]:
        """The element of every trial that runs, by its number."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {one.number: int(one.user_attrs[_ELEMENT]) for one in trials if _ELEMENT in one.user_attrs}

    def missing(self) -> int:
        """Trials that are neither told nor at work; those that wait for another try are among them."""
        trials = self._study.get_trials(deepcopy=False)
        begun = sum(_counts(one) for one in trials if one.state is not TrialState.WAITING)
        return max(0, self.search.trials - begun)

    def told(self) -> int:
        """Trials that have ended, of those that count."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(_counts(one) for one in trials if one.state not in _OPEN)

    def last_element(self) -> int:
        """The largest number of an element that ever had a trial; -1 before the first."""
        trials = self._study.get_trials(deepcopy=False)
        return max((int(one.user_attrs.get(_ELEMENT, -1)) for one in trials), default=-1)

    def best_run(self, seed: int) -> str | None:
        """The run with this seed of the best complete trial, of one objective."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return None
        runs: Mapping[str, str] = self._study.best_trial.user_attrs.get(_RUNS, {})
        return runs.get(str(seed))

    def name_runs(self, asked: Asked, runs: Mapping[int, str]) -> None:
        """Keep which runs, by seed, a trial consists of."""
        told = {str(seed): run_id for seed, run_id in runs.items()}
        self._storage.set_trial_user_attr(self._id(asked.number), _RUNS, told)

    def report(self, asked: Asked, step: int, value: float) -> bool:
        """Tell the accuracy of training up to ``step``; whether the trial is to be given up there."""
        trial_id = self._id(asked.number)
        if step > max(self._storage.get_trial(trial_id).intermediate_values, default=0):
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        _, first = self.search.rungs(self.steps)
        if self.search.pruner is Pruner.none or step < first or step >= self.steps:
            return False
        with quietly():
            return bool(self._study.pruner.prune(self._study, self._storage.get_trial(trial_id)))

    def tell(self, asked: Asked, values: Sequence[float]) -> None:
        """The trial is complete. Raises ValueError for a value that is no number."""
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{asked.arm} must have numbers for values, got {list(values)}")
        self._study.tell(asked.number, list(values))

    def prune(self, asked: Asked, reason: str) -> None:
        """The trial was given up on the way."""
        self._storage.set_trial_user_attr(self._id(asked.number), _REASON, reason)
        self._study.tell(asked.number, state=TrialState.PRUNED)

    def fail(self, asked: Asked, reason: str, *, again: bool) -> None:
        """The trial has no value. With ``again``, its values are tried once more, three times in all."""
        with self._taking_turns():
            self._fail(asked.number, reason, again=again)

    def rows(self) -> list[dict[str, Any]]:
        """Every trial, as ``trials.json`` has it."""
        return [_row(one) for one in self._study.get_trials(deepcopy=False)]

    def export(self) -> None:
        """Write ``trials.json`` again."""
        search = self.search
        content = {
            "name": search.name,
            "sampler": search.sampler,
            "pruner": search.pruner,
            "objectives": [{"name": one, "direction": one.direction} for one in search.objectives],
            "planned": search.trials,
            "space": [one.as_json() for one in search.space.parameters],
            "trials": self.rows(),
        }
        write_json(self.folder / "trials.json", content)

    def _id(self, number: int) -> int:
        """What the storage calls a trial."""
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))

    def _bury(self, is_alive: Callable[[int], bool]) -> None:
        """Tell trials as failed that nobody works on any more, and queue their values."""
        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            element = one.user_attrs.get(_ELEMENT)
            if element is None:  # whoever asked for it died before it was theirs, or is no element of ours
                self._fail(one.number, "nobody's: its element died while it chose", again=False, counts=False)
            elif not is_alive(int(element)):
                self._fail(one.number, f"element {element} is gone", again=True)

    def _fail(self, number: int, reason: str, *, again: bool, counts: bool = True) -> None:
        """Queue first, then tell: a process that dies in between leaves a repetition, which is found."""
        trial_id = self._id(number)
        trial = self._storage.get_trial(trial_id)
        tries = int(trial.user_attrs.get(_TRIES, 1))
        again = again and tries < _MOST_TRIES
        self._storage.set_trial_user_attr(trial_id, _REASON, reason)
        if again:
            self._study.enqueue_trial(dict(trial.params), user_attrs={_TRIES: tries + 1})
        if again or not counts:
            self._storage.set_trial_user_attr(trial_id, _AGAIN, True)
        self._study.tell(number, state=TrialState.FAIL)

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "asking.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were planned."""
    return not trial.user_attrs.keys() & {_AGAIN, _REPEATS}


def _values(trial: FrozenTrial) -> str:
    return json.dumps(trial.params, sort_keys=True)


def _same_values(trials: Sequence[FrozenTrial], params: Mapping[str, Value], *, but: int) -> int | None:
    """The number of a trial that counts and has these values."""
    wanted = json.dumps(params, sort_keys=True)
    for one in trials:
        has_values = one.state is not TrialState.WAITING and one.number != but
        if has_values and _counts(one) and _values(one) == wanted:
            return one.number
    return None


def _all_tried(trials: Sequence[FrozenTrial], size: float) -> bool:
    tried = {_values(one) for one in trials if _counts(one) and one.state is not TrialState.WAITING}
    return len(tried) >= size


def _sampler(search: Search, sampler: Sampler, *, asked: int) -> optuna.samplers.BaseSampler:
    """A sampler for one choice; its seed depends on how many trials there were, so on no process."""
    seed = derive_seed(search.sampler_seed, "search", asked) % 2**32
    with quietly():
        match sampler:
            case Sampler.random:
                return optuna.samplers.RandomSampler(seed=seed)
            case Sampler.tpe:
                return optuna.samplers.TPESampler(seed=seed, group=search.space.is_conditional)
            case Sampler.gp:
                return optuna.samplers.GPSampler(seed=seed)
            case Sampler.cmaes:
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case Sampler.nsgaii:
                return optuna.samplers.NSGAIISampler(seed=seed)


def _pruner(search: Search, steps: int) -> optuna.pruners.BasePruner:
    _, first = search.rungs(steps)
    with quietly():
        match search.pruner:
            case Pruner.none:
                return optuna.pruners.NopPruner()
            case Pruner.median:
                return optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS, n_warmup_steps=first)
            case Pruner.asha:
                return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=_REDUCTION)
            case Pruner.hyperband:
                return optuna.pruners.HyperbandPruner(
                    min_resource=first, max_resource=steps, reduction_factor=_REDUCTION
                )


def _row(trial: FrozenTrial) -> dict[str, Any]:
    is_pruned = trial.state is TrialState.PRUNED
    values = None if trial.state is not TrialState.COMPLETE else list(trial.values or ())
    return {
        "number": trial.number,
        "arm": arm_of(trial.number),
        "state": _STATES[trial.state],
        "params": dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {})),
        "values": values,
        "intermediate": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "pruned_step": trial.last_step if is_pruned else None,
        "runs": dict(trial.user_attrs.get(_RUNS, {})),
        "reason": str(trial.user_attrs.get(_REASON, "")),
        "counted": _counts(trial),
        "element": trial.user_attrs.get(_ELEMENT),
        "started": _epoch(trial.datetime_start),
        "ended": _epoch(trial.datetime_complete),
    }


def _epoch(moment: datetime | None) -> float | None:
    """Optuna's times are naive and local."""
    return None if moment is None else moment.timestamp()
