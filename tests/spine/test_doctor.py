"""``tokensweep doctor`` says what is wrong and what to do, and changes nothing."""

from __future__ import annotations

import errno
import fcntl
import http.server
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tokensweep.doctor import disk, machine
from tokensweep.doctor.command import diagnose, doctor_command
from tokensweep.doctor.disk import Mount, find_mount, locks, privacy, space, tracking, writable
from tokensweep.doctor.finding import Check, Finding, Level, answer, ok
from tokensweep.doctor.machine import judge_packages, package_versions, python_version, threads, torch_build

_MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 27 0:28 / /home rw,nosuid shared:1 - nfs4 server:/home rw,vers=4.2,local_lock=none
32 27 0:29 / /scratch rw - lustre 10.0.0.1@o2ib:/fast rw,localflock,lazystatfs
33 27 0:30 / /scratch/my\\040data rw - tmpfs tmpfs rw
34 27 0:31 / /data rw - nfs server:/old rw,vers=3,nolock
35 27 0:32 / /data rw - beegfs beegfs_nodev rw
36 27 0:33 / /ho rw - xfs /dev/vdb rw
"""


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


def level(finding: Finding) -> str:
    return finding.level.value


def test_this_installation_is_as_demanded() -> None:
    assert level(python_version()) == "ok"
    assert level(package_versions()) == "ok"


def test_an_old_python_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "demands", lambda: (">=3.99", []))
    finding = python_version()
    assert level(finding) == "fail"
    assert ">=3.99 is needed" in finding.found
    assert "virtual environment" in finding.advice


def test_missing_and_wrong_packages_are_named() -> None:
    finding = judge_packages(["numpy>=2", "numpy<1", "no-such-package>=1", 'nor-this; extra == "dev"'])
    assert level(finding) == "fail"
    assert finding.found.startswith("numpy ")
    assert finding.found.endswith(" is not <1; no-such-package is missing")
    many = judge_packages([f"no-such-{number}" for number in range(7)])
    assert many.found.endswith("no-such-3 is missing and 3 more")


def test_a_gpu_that_torch_cannot_use_is_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "absent")
    assert level(torch_build()) == "ok"
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    assert level(torch_build()) == "warn"


def test_more_threads_than_cores_are_remarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert level(threads()) == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert (level(threads()), threads().advice) == ("warn", "set OMP_NUM_THREADS=3, or ask for more cores")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    store = tmp_path / "a" / "store"
    assert writable(store) == ok(f"{store} will be made when something runs")
    assert level(privacy(store, group=None)) == level(locks(store)) == level(space(store)) == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    assert level(writable(tmp_path)) == "ok"
    (tmp_path / "file").touch()
    assert "must be a folder" in writable(tmp_path / "file").found
    no_place = writable(Path("/proc/store"))  # where root cannot write either
    assert level(no_place) == "fail"
    assert "/proc cannot be written" in no_place.found


@pytest.mark.parametrize(
    ("mode", "shared", "expected"),
    [
        (0o700, False, "ok"),
        (0o750, False, "warn"),
        (0o755, False, "warn"),
        (0o701, False, "warn"),
        (0o750, True, "ok"),
        (0o700, True, "warn"),
        (0o755, True, "warn"),
    ],
)
def test_who_can_look_into_the_store_is_told(tmp_path: Path, mode: int, shared: bool, expected: str) -> None:
    tmp_path.chmod(mode)
    finding = privacy(tmp_path, group=tmp_path.group() if shared else None)
    assert level(finding) == expected
    assert f"{mode:04o}" in finding.found


def test_a_store_of_another_group_than_the_sites_is_remarked(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    finding = privacy(tmp_path, group="another")
    assert "the site's group another cannot look" in finding.found
    assert finding.advice.startswith("chgrp -R another ")


@pytest.mark.parametrize(("free", "expected"), [(0.9e9, "fail"), (19e9, "warn"), (21e9, "ok")])
def test_little_space_is_remarked_and_none_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, expected: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert level(space(tmp_path)) == expected


def test_locks_that_exclude_nobody_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert level(locks(tmp_path)) == "ok"
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "two processes could work on one run" in locks(tmp_path).found

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    finding = locks(tmp_path)
    assert (level(finding), "No locks available" in finding.found) == ("fail", True)
    assert list(tmp_path.iterdir()) == []


def test_locks_that_stay_on_a_machine_are_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "mount_of", lambda _: find_mount(Path("/scratch/x"), _MOUNTS.splitlines()))
    finding = locks(tmp_path)
    assert (level(finding), "/scratch is mounted so" in finding.found) == ("warn", True)


@pytest.mark.parametrize(
    ("path", "point", "kind", "network", "local_locks"),
    [
        ("/home/me/store", "/home", "nfs4", True, False),
        ("/scratch/me", "/scratch", "lustre", True, True),
        ("/scratch/my data/store", "/scratch/my data", "tmpfs", False, False),
        ("/scratch/my", "/scratch", "lustre", True, True),
        ("/data/x", "/data", "beegfs", True, False),  # mounted over another one
        ("/homework", "/", "ext4", False, False),
    ],
)
def test_the_file_system_of_a_path_is_found(
    path: str, point: str, kind: str, network: bool, local_locks: bool
) -> None:
    mount = find_mount(Path(path), _MOUNTS.splitlines())
    assert (mount.point, mount.kind, mount.is_network, mount.locks_stay_here) == (
        point,
        kind,
        network,
        local_locks,
    )


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    finding = tracking(f"sqlite:///{tmp_path}/a/mlflow.db")
    assert (level(finding), "will be made by the first sync" in finding.found) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_opened_and_its_runs_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (id)")
        database.execute("INSERT INTO runs VALUES (1), (2)")
        database.commit()
    assert tracking(f"sqlite:///{path}") == ok(f"{path} with 2 runs")
    path.write_text("this is a text")
    broken = tracking(f"sqlite:///{path}")
    assert (level(broken), "file is not a database" in broken.found) == ("fail", True)
    assert "tokensweep sync --all" in broken.advice


def test_a_database_on_a_network_file_system_is_remarked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "mount_of", lambda _: Mount("/home", "nfs4", frozenset()))
    finding = tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert (level(finding), "nfs4" in finding.found) == ("warn", True)
    assert "tracking.uri=http" in finding.advice


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that lets nobody in."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_server_that_refuses_is_there_all_the_same(port: int) -> None:
    assert tracking(f"http://me:secret@127.0.0.1:{port}/") == ok(f"http://127.0.0.1:{port} answers")


def test_a_server_that_is_away_delays_only_the_tables(port: int) -> None:
    for scheme in ("http", "postgresql+psycopg"):
        finding = tracking(f"{scheme}://me:secret@127.0.0.1:1/mlflow")  # nothing listens on port 1
        assert level(finding) == "warn"
        assert "secret" not in finding.found
        assert "runs don't wait for it" in finding.advice


def test_an_address_that_can_never_work_is_a_failure() -> None:
    finding = answer(Check("MLflow", lambda: tracking("file:/mlruns")))
    assert (level(finding), finding.found.startswith("tracking.uri must be")) == ("fail", True)


def test_a_check_that_breaks_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_slurm: None
) -> None:
    whole = diagnose(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")

    def breaks(_: object) -> Mount:
        raise RuntimeError("what is a mount?")

    monkeypatch.setattr(disk, "mount_of", breaks)
    broken = diagnose(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [topic for topic, _ in broken] == [topic for topic, _ in whole]
    failed = {topic: each.found for topic, each in broken if each.level is Level.fail}
    assert set(failed) == {"locks", "file system", "MLflow"}
    assert failed["locks"] == "the check itself failed: RuntimeError: what is a mount?"


def test_without_slurm_all_is_well_until_a_site_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_slurm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o700)
    doctor_command([f"store={tmp_path}", "--json"])
    findings = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert findings["SLURM"]["level"] == "ok"
    assert set(findings) == {
        *("Python", "packages", "torch", "threads", "store", "privacy", "space", "locks", "file system"),
        *("vLLM", "MLflow", "SLURM"),
    }
    with pytest.raises(SystemExit) as left:
        doctor_command([f"store={tmp_path}", "--json", "site=devcluster"])
    assert left.value.code == 1
    findings = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert (findings["SLURM"]["level"], findings["site"]["level"]) == ("fail", "ok")
    assert "log in to a node of the cluster" in findings["SLURM"]["advice"]
    assert list(tmp_path.iterdir()) == []


def test_people_read_what_to_do_below_what_is_wrong(
    tmp_path: Path, no_slurm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    doctor_command([f"store={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("warn  privacy"))
    assert "everybody on this machine" in lines[at]
    assert lines[at + 1].strip() == f"chmod 700 {tmp_path}"


def test_an_unknown_site_is_a_failure_that_lists_the_known(tmp_path: Path, no_slurm: None) -> None:
    findings = dict(diagnose(tmp_path, uri="sqlite:///x.db", site="nowhere"))
    assert level(findings["site"]) == "fail"
    assert "known are devcluster, example" in findings["site"].found
