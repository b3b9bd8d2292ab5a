"""The development cluster is a real SLURM: what sweeps will rely on, each on its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import submitit
from tests.slurm.cluster import SCRIPT, Devcluster

pytestmark = pytest.mark.slurm

_WHOLE = ("--nodes=2", "--gres=gpu:4")  # all GPUs of the cluster
_ATTEMPT = "echo attempt ${SLURM_RESTART_COUNT:-0}; test -z $SLURM_RESTART_COUNT || exit 0; "


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that have the folder in arguments, environment or working folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(entry / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            texts.append(str((entry / "cwd").readlink()))
        except OSError:  # gone meanwhile, a zombie, or another user's
            continue
        if any(str(folder) in text for text in texts):
            found.append(texts[0].replace("\0", " "))
    return found


def test_both_nodes_are_idle_with_four_gpus_each(devcluster: Devcluster) -> None:
    nodes = devcluster.run("sinfo", "--noheader", "--partition=main", "--Node", "--format=%N %T %G")
    assert nodes.splitlines() == ["gpu1 idle gpu:pretend:4", "gpu2 idle gpu:pretend:4"]
    assert devcluster.script("status").returncode == 0


def test_a_second_up_does_nothing_and_says_so(devcluster: Devcluster) -> None:
    before = devcluster.daemon("slurmctld")
    done = devcluster.script("up")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "devcluster: already up, nothing to do")
    assert devcluster.daemon("slurmctld") == before


def test_a_job_sees_as_many_gpus_as_it_asked_for(devcluster: Devcluster) -> None:
    assert devcluster.run("srun", "--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES") in {"0", "1", "2", "3"}
    seen = devcluster.run("srun", "--ntasks=2", *_WHOLE, "printenv", "CUDA_VISIBLE_DEVICES")
    assert seen.splitlines() == ["0,1,2,3"] * 2


def test_a_throttled_array_runs_its_tasks_one_after_the_other(devcluster: Devcluster) -> None:
    task = "echo $SLURM_ARRAY_TASK_ID starts; sleep 1; echo $SLURM_ARRAY_TASK_ID ends"
    job = devcluster.submit(task, "--array=0-2%1")
    assert devcluster.ended(job, rows=3) == ["COMPLETED"] * 3
    assert devcluster.output(job) == [f"{i} {what}" for i in range(3) for what in ("starts", "ends")]


def test_sacct_tells_states_and_exit_codes_after_the_fact(devcluster: Devcluster) -> None:
    good, bad = devcluster.submit("exit 0"), devcluster.submit("exit 3")
    assert devcluster.ended(good, fields="state,exitcode") == ["COMPLETED|0:0"]
    assert devcluster.ended(bad, fields="state,exitcode") == ["FAILED|3:0"]


def test_what_depends_on_a_failed_job_is_cancelled(devcluster: Devcluster) -> None:
    first = devcluster.submit("exit 1")
    second = devcluster.submit("true", "--kill-on-invalid-dep=yes", f"--dependency=afterok:{first}")
    third = devcluster.submit("true", "--kill-on-invalid-dep=yes", f"--dependency=afterok:{second}")
    assert devcluster.ended(first) == ["FAILED"]
    assert devcluster.ended(second) == ["CANCELLED"]
    assert devcluster.ended(third) == ["CANCELLED"]


def test_a_preempted_job_starts_again_and_knows_it(devcluster: Devcluster) -> None:
    job = devcluster.submit(_ATTEMPT + "sleep 100", *_WHOLE)
    devcluster.wait_for("attempt 0", job)
    devcluster.run("srun", "--partition=high", *_WHOLE, "true")
    assert devcluster.ended(job, rows=2) == ["PREEMPTED", "COMPLETED"]
    assert devcluster.output(job) == ["attempt 0", "attempt 1"]


def test_a_warned_job_has_time_to_requeue_itself(devcluster: Devcluster) -> None:
    script = f"trap 'echo saved; scontrol requeue $SLURM_JOB_ID; wait' USR2; {_ATTEMPT} sleep 100 & wait"
    job = devcluster.submit(script, *_WHOLE, "--partition=warned", "--signal=B:USR2@60")
    devcluster.wait_for("attempt 0", job)
    devcluster.run("srun", "--partition=high", *_WHOLE, "true")
    assert devcluster.ended(job, rows=2) == ["REQUEUED", "COMPLETED"]
    assert devcluster.output(job) == ["attempt 0", "saved", "attempt 1"]


def test_limits_are_small_enough_for_a_sweep_to_meet(devcluster: Devcluster) -> None:
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        devcluster.submit("true", "--hold", "--array=0-10")
    jobs = [devcluster.submit("true", "--hold", "--array=0-9") for _ in range(4)]
    with pytest.raises(AssertionError, match="AssocMaxSubmitJobLimit"):
        devcluster.submit("true", "--hold")
    devcluster.run("scancel", *jobs)


def test_a_function_runs_by_submitit(
    devcluster: Devcluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(devcluster.folder / "slurm.conf"))
    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(time=5, gres="gpu:1")
    job = executor.submit(os.getenv, "SLURM_JOB_PARTITION")
    assert job.result() == "main"
    assert devcluster.ended(job.job_id) == ["COMPLETED"]


def test_up_mends_a_broken_cluster_and_keeps_its_jobs(second_cluster: Devcluster) -> None:
    job = second_cluster.submit("echo here; sleep 100")
    second_cluster.wait_for("here", job)
    ask = ("squeue", "--noheader", "--format=%A %T %S")  # a start of its own would have a time of its own
    second_cluster.saved(job)
    before = second_cluster.run(*ask)
    assert before.startswith(f"{job} RUNNING ")
    os.kill(second_cluster.daemon("slurmctld"), signal.SIGKILL)
    status = second_cluster.script("status")
    assert status.returncode == 1
    assert re.search(r"^slurmctld +- .* does not run$", status.stdout, re.MULTILINE)
    assert second_cluster.script("up").stdout.splitlines()[0] == "starting slurmctld"
    assert second_cluster.script("status").returncode == 0
    assert second_cluster.run(*ask) == before
    assert second_cluster.output(job) == ["here"]


def test_down_ends_all_of_a_broken_cluster_and_nothing_else(
    devcluster: Devcluster, second_cluster: Devcluster
) -> None:
    job = second_cluster.submit("setsid sleep 1000 & echo here; sleep 2000")  # SLURM itself loses the first
    second_cluster.wait_for("here", job)
    os.kill(second_cluster.daemon("slurmctld"), signal.SIGKILL)
    os.kill(second_cluster.daemon("gpu1"), signal.SIGKILL)
    assert {"sleep 1000 ", "sleep 2000 "} <= set(processes_of(second_cluster.folder))
    assert second_cluster.script("down").returncode == 0
    assert processes_of(second_cluster.folder) == []
    assert second_cluster.script("down").stdout == "devcluster: nothing runs\n"
    assert devcluster.script("status").returncode == 0


def test_a_folder_that_others_can_enter_is_refused(short_folder: Path) -> None:
    short_folder.chmod(0o755)
    done = Devcluster(short_folder).script("up")
    assert done.returncode == 1
    assert f"{short_folder} must be yours alone" in done.stderr


def test_a_user_without_packages_is_told_what_root_must_install(short_folder: Path) -> None:
    # An apt-get is on the PATH, but only root may be helped by it.
    (short_folder / "apt-get").symlink_to(shutil.which("false") or "")
    user = (
        "import os, runpy, sys; os.geteuid = lambda: 1; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", user, str(SCRIPT), "--folder", str(short_folder), "up"],
        env={"PATH": str(short_folder), "HOME": str(short_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    packages = "mariadb-server munge slurm-client slurmctld slurmd slurmdbd"
    assert done.returncode == 3
    assert f"apt-get install --yes --no-install-recommends {packages}\n" in done.stderr
