"""From SLURM's variables to torchrun's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokensweep.cluster.rendezvous import (
    Rendezvous,
    interface_to,
    node_address,
    rank_environment,
    rendezvous,
    torchrun_variables,
)
from tokensweep.train.ranks import Place

# The third of four tasks on two nodes, as srun sets them.
_TASK = {
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[1-2]",
    "SLURM_JOB_NODELIST": "gpu[1-3]",
}
_NO_CLUSTER = 3523407757  # crc32 of the byte 0, which stands between two empty names


def address(nodes: str) -> str:
    return {"gpu[1-2]": "10.0.0.1"}[nodes]


def port(**variables: str) -> int:
    return rendezvous({**_TASK, **variables}, address_of=address).port


def test_a_task_becomes_a_rank_of_the_node_that_is_first_in_its_step() -> None:
    expected_port = 20000 + (5 + _NO_CLUSTER) % 10000
    assert expected_port == 27762
    assert rendezvous(_TASK, address_of=address) == Rendezvous(2, 4, 0, "10.0.0.1", expected_port)


def test_the_trainer_reads_what_is_written() -> None:
    place = rendezvous(_TASK, address_of=address)
    assert Place.of(torchrun_variables(place)) == Place(
        rank=2, size=4, local_rank=0, address="10.0.0.1", port=27762
    )


def test_jobs_that_may_share_a_node_have_ports_of_their_own() -> None:
    # Neighbouring jobs, two steps of one, a job that was requeued because its port was taken, two clusters.
    ports = [port(SLURM_JOB_ID=str(job)) for job in range(5, 105)]
    ports += [port(SLURM_STEP_ID="1"), port(SLURM_RESTART_COUNT="1"), port(SLURM_CONF="other.conf")]
    assert len(set(ports)) == 103
    assert port(SLURM_STEP_ID="1") - port() == 101
    assert port(SLURM_RESTART_COUNT="1") - port() == 1009


def test_every_port_is_below_those_of_outgoing_connections() -> None:
    ports = {port(SLURM_JOB_ID=str(job)) for job in range(1, 20000, 7)}
    assert min(ports) >= 20000
    assert max(ports) < 30000


def test_a_single_task_asks_nobody_for_an_address() -> None:
    alone = {**_TASK, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
    environment = rank_environment(alone, address_of=pytest.fail)
    assert (environment["WORLD_SIZE"], environment["RANK"]) == ("1", "0")
    assert Place.of(environment) == Place()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_STEP_ID": ""}, "SLURM_STEP_ID is not set: start the ranks by srun"),
        ({"SLURM_PROCID": ""}, "SLURM_PROCID must be a number that srun has set, got ''"),
        ({"SLURM_JOB_ID": "5_1"}, "SLURM_JOB_ID must be a number that srun has set, got '5_1'"),
        ({"SLURM_PROCID": "4"}, "must fit together, .* got 0, 4, 4 and 4"),
        ({"SLURM_LOCALID": "3"}, "must fit together, .* got 3, 2, 4 and 4"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "must fit together, .* got 0, 2, 4 and 1"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST must name the nodes of the step"),
    ],
)
def test_variables_that_are_missing_or_contradict_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendezvous({**_TASK, **change}, address_of=address)


def test_gloo_listens_towards_rank_0_unless_it_is_told_otherwise() -> None:
    by_itself = rank_environment(_TASK, address_of=lambda nodes: "127.0.0.1")
    assert by_itself["GLOO_SOCKET_IFNAME"] == "lo"
    told = rank_environment({**_TASK, "GLOO_SOCKET_IFNAME": "ib0"}, address_of=lambda nodes: "127.0.0.1")
    assert told["GLOO_SOCKET_IFNAME"] == "ib0"
    assert interface_to("no address") is None


def fake_scontrol(folder: Path, answer: str) -> None:
    """A scontrol that prints ``answer`` on the right questions, and fails on others."""
    script = folder / "scontrol"
    script.write_text(
        f"#!/bin/sh\ncase \"$*\" in\n'show hostnames gpu[1-2]') echo gpu1; echo gpu2;;\n"
        f"'show node -o gpu1') echo '{answer}';;\n*) echo wrong $* >&2; exit 1;;\nesac\n"
    )
    script.chmod(0o755)


def test_the_address_is_what_slurm_knows_and_not_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_scontrol(tmp_path, "NodeName=gpu1 Gres=gpu:4 NodeAddr=10.1.2.3 NodeHostName=gpu1.cluster Port=6818")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert node_address("gpu[1-2]") == "10.1.2.3"
    with pytest.raises(ValueError, match=r"scontrol show hostnames gpu9 must work .* it said: wrong show"):
        node_address("gpu9")
    fake_scontrol(tmp_path, "NodeName=gpu1 State=DOWN")
    with pytest.raises(ValueError, match="scontrol must tell the NodeAddr of gpu1, it said: NodeName=gpu1"):
        node_address("gpu[1-2]")


def test_a_node_without_scontrol_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"scontrol show hostnames gpu1 must work on the nodes"):
        node_address("gpu1")


def as_rank(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m tokensweep.cluster.rendezvous`` as a task of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tokensweep.cluster.rendezvous", *command],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_module_becomes_the_command_with_the_variables_of_a_rank() -> None:
    single = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
    done = as_rank("sh", "-c", "echo $RANK $WORLD_SIZE $MASTER_PORT; exit 7", **{**_TASK, **single})
    assert (done.returncode, done.stdout) == (7, "0 1 27762\n")


def test_the_module_outside_of_a_step_says_what_is_missing() -> None:
    done = as_rank("true")
    assert done.returncode == 1
    assert done.stderr.startswith("tokensweep.cluster.rendezvous: a rank must be a task of a SLURM step")
    assert as_rank(**_TASK).stderr.startswith("usage: srun ")
