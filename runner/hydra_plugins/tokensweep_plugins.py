"""The thin Hydra plugins: a launcher that freezes and dispatches, a sweeper that expands, a search path.

Hydra's own launchers compose a job again when it starts, and its sweeper composes every job once more only
to validate it; here a job is composed once, by the planner.

(No postponed annotations here: Hydra executes plugin modules before it registers them, and dataclasses
then cannot look up what a string annotation means.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

_HERE = "hydra_plugins.tokensweep_plugins"


@dataclass
class LocalLauncherConf:
    _target_: str = f"{_HERE}.LocalLauncher"


@dataclass
class SlurmLauncherConf:
    _target_: str = f"{_HERE}.SlurmLauncher"


@dataclass
class GridSweeperConf:
    _target_: str = f"{_HERE}.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


@dataclass
class OptunaPullConf:
    """``hydra/sweeper=optuna_pull``: what :class:`tokensweep.search.spec.Search` says of each key."""

    _target_: str = f"{_HERE}.OptunaPullSweeper"
    trials: int = 20
    sampler: str = "tpe"
    seed: int = 0
    pruner: str = "none"
    rung: int | None = None
    warmup: int | None = None
    objective: Any = "accuracy"
    stop_evaluation: float = 0.0
    when: Any = (
        None  # a mapping of here could get no new keys from a command line: Hydra's configs are closed
    )


for _name, _conf in (("local", LocalLauncherConf), ("slurm", SlurmLauncherConf)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_conf, provider="tokensweep")
for _name, _sweeper in (("grid", GridSweeperConf), ("optuna_pull", OptunaPullConf)):
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_sweeper, provider="tokensweep")


class LocalLauncher(Launcher):
    """Runs the jobs of a multirun as worker processes of this machine (``hydra/launcher=local``)."""

    launcher = "local"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the composed base config; the jobs are composed by the planner."""
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan, run and report all jobs; leaves with a non-zero exit code when a run failed."""
        from tokensweep.orchestrate import multirun, run_sweep

        sweep = multirun(job_overrides, name=self._config.sweep, scale=self._config.scale)
        run_ids = run_sweep(sweep, launcher=self.launcher)
        return [
            _job_return(run_id, overrides) for run_id, overrides in zip(run_ids, job_overrides, strict=True)
        ]

    def search(self, overrides: Sequence[str], settings: dict[str, Any], *, when: Any) -> None:
        """Search with Optuna and report; leaves with a non-zero exit code when trials are missing."""
        from tokensweep.search.launch import run_search
        from tokensweep.search.read import search_of_command

        name, scale = self._config.sweep, self._config.scale
        given = search_of_command(overrides, settings=settings, when=when, name=name, scale=scale)
        run_search(given.search, launcher=self.launcher, launch=given.launch)


class SlurmLauncher(LocalLauncher):
    """Submits the jobs of a multirun to a cluster (``hydra/launcher=slurm site=NAME``) and returns."""

    launcher = "slurm"


def _job_return(run_id: str, overrides: Sequence[str]) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    result.return_value = run_id
    return result


class GridSweeper(BasicSweeper):
    """Expands comma values like Hydra's basic sweeper, without composing every job to validate it."""

    def sweep(self, arguments: list[str]) -> Any:
        """Hand all jobs of the grid to the launcher at once."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        jobs = self.split_arguments(overrides, None)[0]
        return [self.launcher.launch(jobs, initial_job_idx=0)]


class OptunaPullSweeper(Sweeper):
    """Has Optuna choose the values: each element of the search asks the study when it starts."""

    def __init__(self, when: Any, **settings: Any) -> None:
        self._when, self._settings = when, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that ``hydra/launcher`` names."""
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search what has several values; everything else is the base of all trials."""
        assert isinstance(self._launcher, LocalLauncher)
        plain = OmegaConf.to_container(OmegaConf.create({**self._settings, "when": self._when}))
        assert isinstance(plain, dict)
        when = plain.pop("when")
        self._launcher.search(arguments, {str(key): value for key, value in plain.items()}, when=when)


class ExtensionSearchPath(SearchPathPlugin):
    """Adds ``conf/`` of every folder in ``TOKENSWEEP_PATH`` to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put a user's own options before those that ship."""
        from tokensweep.paths import extension_dirs

        for folder in reversed(extension_dirs()):
            if (folder / "conf").is_dir():
                search_path.prepend(provider="tokensweep-extension", path=f"file://{folder / 'conf'}")
