"""From a request to a job array: submitit writes the batch file and calls sbatch.

Every task of an array gets the same callable, which holds nothing but the path of its submission's folder.
submitit has no public way to show a batch file before it is submitted, so this module reads it from where
submitit makes it; tests/cluster holds that against the file that is really submitted.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit

from tokensweep.cluster.site import Request, Site
from tokensweep.cluster.task import Task

_PROXIES = ("http_proxy", "https_proxy")


def job_options(
    site: Site, request: Request, *, name: str, throttle: int, dependency: str | None
) -> dict[str, Any]:
    """submitit's parameters for a request; what neither site nor run says is left to SLURM."""
    gpus = f"{site.gpu_type}:{request.gpus}" if site.gpu_type else request.gpus
    cpus = max(1, request.cpus // request.ranks)
    further = {**site.sbatch, "requeue": True, "kill-on-invalid-dep": "yes"}
    if request.mem_gb is not None:
        further["mem"] = f"{round(request.mem_gb * 1024)}M"
    options = {
        "job_name": name,
        "partition": request.partition,
        "account": site.account,
        "qos": request.qos,
        "constraint": site.constraint,
        "exclude": site.exclude,
        "nodes": request.nodes,
        "ntasks_per_node": request.ranks,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus if request.gpus else None,
        "time": request.minutes,
        "signal_delay_s": site.signal_s,
        "array_parallelism": throttle,
        "dependency": dependency,
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", f"--cpus-per-task={cpus}", *site.srun_args],
        "additional_parameters": further,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return {**given, "wckey": None}  # submitit's own default is refused where wckeys are enforced


def setup_lines(site: Site, environment: Mapping[str, str]) -> list[str]:
    """Shell lines before the worker: the site's own, then what this project's workers need."""
    exports = dict(environment)
    if site.offline:
        exports |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    lines = [*site.setup, *(_export(key, value) for key, value in exports.items())]
    if site.group:
        lines.append("umask 027")
    if site.scratch:  # the site's word: may hold $USER or $SLURM_JOB_ID
        lines.append(f'export TMPDIR="{site.scratch}"; mkdir -p "$TMPDIR"')
    if site.proxy:
        lines += [f'export {name}="{site.proxy}"' for name in _PROXIES]
    return lines


def _export(key: str, value: str) -> str:
    """A path goes before what the site's own lines have put there."""
    rest = "${PYTHONPATH:+:$PYTHONPATH}" if key == "PYTHONPATH" else ""
    return f"export {key}={shlex.quote(value)}{rest}"


def executor(
    folder: Path, options: Mapping[str, Any], *, setup: Sequence[str], python: str | None
) -> submitit.SlurmExecutor:
    """submitit's executor for one submission; its files go to ``folder``."""
    made = submitit.SlurmExecutor(folder, max_num_timeout=0, python=python)
    made.update_parameters(**options, setup=list(setup))
    return made


def batch_text(made: submitit.SlurmExecutor, *, tasks: int) -> str:
    """The batch file that :func:`submit` hands to sbatch."""
    parameters = {**made.parameters, **({"map_count": tasks} if tasks > 1 else {})}
    shown = submitit.SlurmExecutor(made.folder, max_num_timeout=0, python=made.python)
    shown.parameters = parameters
    text: str = shown._make_submission_file_text(shown._submitit_command_str, "")
    return text


def submit(
    made: submitit.SlurmExecutor,
    task: Task,
    *,
    tasks: int,
    environment: Mapping[str, str],
    lock: Path | None = None,
) -> str:
    """Submit an array (or a single job) and give back its number.

    ``environment`` is added to what sbatch inherits, for what must not stand in a file. sbatch holds
    ``lock``. Raises ValueError with sbatch's complaint.
    """
    with _environment(environment), _locked_sbatch(lock), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # submitit's, about its own defaults
        try:
            jobs = made.map_array(task, range(tasks))
        except submitit.core.utils.FailedJobError as error:
            raise ValueError(f"sbatch refused the job: {error}") from None
    job_id: str = jobs[0].job_id
    return job_id.partition("_")[0]


# sbatch with a shared lock, which stays when the process that called it is gone.
_LOCKED = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
os.set_inheritable(descriptor, True)
fcntl.flock(descriptor, fcntl.LOCK_SH)
os.execvp("sbatch", ["sbatch", sys.argv[2]])
"""


@contextmanager
def _locked_sbatch(lock: Path | None) -> Iterator[None]:
    """Have submitit call sbatch with a lock. A subclass would not do: submitit makes its own for an array."""
    plain = submitit.SlurmExecutor._make_submission_command
    if lock is not None:
        before = [sys.executable, "-I", "-c", _LOCKED, str(lock)]
        submitit.SlurmExecutor._make_submission_command = lambda _, path: [*before, str(path)]
    try:
        yield
    finally:
        submitit.SlurmExecutor._make_submission_command = plain


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """The caller's environment with ``more``, without a job's own variables: a job may submit, too."""
    before = dict(os.environ)
    for name in [
        name for name in os.environ if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"
    ]:
        del os.environ[name]
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
