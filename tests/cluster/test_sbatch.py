"""The batch file: what site and run ask for, quoted, the same in a plan and in what is submitted."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tokensweep.cluster.sbatch import batch_text, executor, job_options, setup_lines, submit
from tokensweep.cluster.site import Request, Site
from tokensweep.cluster.task import Task

_REQUEST = Request(partition="gpu", qos="long", nodes=2, gpus=4, cpus=32, mem_gb=200.5, minutes=90, ranks=4)
_SITE = Site(name="s", account="me", gpu_type="a100", signal_s=60, sbatch={"mail-type": "END"})


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a fake sbatch that notes its environment and answers with a number."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    script = f"#!/bin/sh\nenv > {shlex.quote(str(tmp_path))}/environment\necho Submitted batch job 7\n"
    for name, text in (("sbatch", script), ("srun", "#!/bin/sh\n")):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    return tmp_path


def text_of(folder: Path, *, site: Site = _SITE, tasks: int = 3, dependency: str | None = None) -> str:
    options = job_options(site, _REQUEST, name="ts-x", throttle=2, dependency=dependency)
    return batch_text(executor(folder, options, setup=setup_lines(site, {}), python=site.python), tasks=tasks)


def options_of(text: str) -> dict[str, str]:
    """The sbatch options of a batch file."""
    lines = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in text.splitlines() if "#SBATCH" in line]
    pairs = [line.removeprefix("--").partition("=") for line in lines]
    return {key: value for key, _, value in pairs}


def test_the_batch_file_says_what_site_and_run_ask_for(sbatch: Path) -> None:
    options = options_of(text_of(sbatch, dependency="aftercorr:12"))
    assert options.pop("output").endswith("%A_%a_0_log.out")
    assert options == {
        "array": "0-2%2",
        "job-name": "ts-x",
        "partition": "gpu",
        "account": "me",
        "qos": "long",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "a100:4",
        "cpus-per-task": "8",
        "mem": "205312M",  # 200.5 * 1024
        "time": "90",
        "signal": "USR2@60",
        "dependency": "aftercorr:12",
        "kill-on-invalid-dep": "yes",
        "requeue": "",
        "open-mode": "append",
        "mail-type": "END",
    }


def test_a_job_without_a_gpu_asks_for_none(sbatch: Path) -> None:
    options = job_options(_SITE, replace(_REQUEST, gpus=0), name="x", throttle=1, dependency=None)
    assert "gpus_per_node" not in options


def test_what_a_plan_shows_is_what_is_submitted(sbatch: Path) -> None:
    folder = sbatch / "submitit"
    options = job_options(_SITE, _REQUEST, name="ts-x", throttle=2, dependency=None)
    made = executor(folder, options, setup=setup_lines(_SITE, {"PYTHONPATH": "/a b/lib"}), python=None)
    shown = batch_text(made, tasks=3)
    assert submit(made, Task(sbatch), tasks=3, environment={"SECRET_URI": "x"}) == "7"
    assert (folder / "7_submission.sh").read_text() == shown
    assert sorted(path.name for path in folder.glob("*.pkl")) == [f"7_{i}_submitted.pkl" for i in range(3)]


def test_what_must_not_stand_in_a_file_reaches_sbatch_in_its_environment(sbatch: Path) -> None:
    options = job_options(_SITE, _REQUEST, name="ts-x", throttle=2, dependency=None)
    made = executor(sbatch / "submitit", options, setup=[], python=None)
    submit(made, Task(sbatch), tasks=1, environment={"SECRET_URI": "postgres-password"})
    assert "SECRET_URI=postgres-password" in (sbatch / "environment").read_text()
    assert "SECRET_URI" not in os.environ
    written = [path for path in (sbatch / "submitit").iterdir() if b"postgres-password" in path.read_bytes()]
    assert written == []


def test_a_job_can_submit_without_handing_on_its_own_variables(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    made = executor(
        sbatch / "s",
        job_options(_SITE, _REQUEST, name="x", throttle=1, dependency=None),
        setup=[],
        python=None,
    )
    submit(made, Task(sbatch), tasks=1, environment={})
    environment = (sbatch / "environment").read_text()
    assert "SLURM_MEM_PER_NODE" not in environment
    assert "SLURM_CONF=/etc/slurm.conf" in environment
    assert os.environ["SLURM_MEM_PER_NODE"] == "1"


def test_sbatchs_refusal_is_told_in_its_words(sbatch: Path) -> None:
    (sbatch / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: gpu' >&2\nexit 1\n")
    made = executor(
        sbatch / "s",
        job_options(_SITE, _REQUEST, name="x", throttle=1, dependency=None),
        setup=[],
        python=None,
    )
    with pytest.raises(ValueError, match=r"sbatch refused the job: .*invalid partition specified: gpu"):
        submit(made, Task(sbatch), tasks=1, environment={})


@pytest.mark.parametrize("value", ["/a b/lib", "/a'b/lib", "/$(touch owned)/lib", "/a;touch owned/lib"])
def test_no_path_is_taken_for_a_command(tmp_path: Path, value: str) -> None:
    lines = setup_lines(Site(), {"PYTHONPATH": value})
    script = "\n".join([*lines, 'printf %s "$PYTHONPATH"'])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True
    )
    assert done.stdout == value
    assert list(tmp_path.iterdir()) == []


def test_the_snapshot_goes_before_what_the_sites_lines_have_set(tmp_path: Path) -> None:
    lines = setup_lines(Site(setup=["export PYTHONPATH=/site"]), {"PYTHONPATH": "/snapshot"})
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, "printenv PYTHONPATH HF_HUB_OFFLINE"])],
        env={"PATH": "/bin:/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["/snapshot:/site", "1"]


def test_a_group_that_may_read_the_store_can_read_what_jobs_write(tmp_path: Path) -> None:
    lines = setup_lines(Site(group="lab", setup=["umask 077"]), {})
    script = "\n".join([*lines, "mkdir made", "stat --format=%a made"])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "750"


def test_scratch_is_made_on_the_node_and_may_name_the_job(tmp_path: Path) -> None:
    lines = setup_lines(Site(scratch=f"{tmp_path}/$SLURM_JOB_ID"), {})
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, "printenv TMPDIR"])],
        env={"PATH": "/bin:/usr/bin", "SLURM_JOB_ID": "12"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{tmp_path}/12"
    assert (tmp_path / "12").is_dir()
