"""Where the ranks of a run meet: from the variables that srun sets to those that torchrun would set.

``srun -n4 --kill-on-bad-exit=1 python -m tokensweep.cluster.rendezvous python -m tokensweep.worker RUN_DIR``
runs the command behind the module once per task, each as one rank. A job that starts its worker by itself
takes :func:`rank_environment` for it.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LOWEST_PORT, NUM_PORTS = 20000, 10000  # below 32768, from where Linux gives ports to outgoing connections

_SCONTROL_S = 60.0  # a busy slurmctld answers late
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


@dataclass(frozen=True)
class Rendezvous:
    """A rank's place in its run, and where rank 0 waits for the others."""

    rank: int
    world_size: int
    local_rank: int  # among the ranks of its node
    address: str  # of the node of rank 0
    port: int


def rendezvous(variables: Mapping[str, str], *, address_of: Callable[[str], str] | None = None) -> Rendezvous:
    """The place of the task that srun started with these ``SLURM_*`` variables.

    ``address_of`` gives the address of the first node of a SLURM node list; by default ``scontrol`` is asked.
    It is not called for a single task, which has nobody to meet.

    The port is ``20000 + (job + 101 step + 1009 restarts + hash of the cluster) % 10000``: jobs that share a
    node have their own, and so has a job that is requeued, or submitted again, because its port was taken.
    Raises ValueError for variables that are missing or contradict each other.
    """
    if not variables.get("SLURM_STEP_ID"):
        raise ValueError(
            "a rank must be a task of a SLURM step, but SLURM_STEP_ID is not set: start the ranks by srun"
        )
    rank, size, local = (_integer(variables, f"SLURM_{name}") for name in ("PROCID", "NTASKS", "LOCALID"))
    told = _integer(variables, "SLURM_STEP_NUM_TASKS")
    if size != told or not 0 <= local <= rank < size:
        raise ValueError(
            "SLURM's variables must fit together, LOCALID <= PROCID < NTASKS = STEP_NUM_TASKS, got "
            f"{local}, {rank}, {size} and {told}: do not pass those of one step to another"
        )
    port = LOWEST_PORT + _offset(variables) % NUM_PORTS
    address = "127.0.0.1"
    if size > 1:
        nodes = variables.get("SLURM_STEP_NODELIST")
        if not nodes:
            raise ValueError("SLURM_STEP_NODELIST must name the nodes of the step, but is not set: use srun")
        address = (address_of or node_address)(nodes)
    return Rendezvous(rank, size, local, address, port)


def torchrun_variables(place: Rendezvous) -> dict[str, str]:
    """The environment variables by which torchrun tells a process the same."""
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
    }


def rank_environment(
    variables: Mapping[str, str], *, address_of: Callable[[str], str] | None = None
) -> dict[str, str]:
    """``variables`` of a task of srun, with those that make a child process its rank.

    gloo listens on the interface that leads to rank 0, unless GLOO_SOCKET_IFNAME says otherwise: by itself it
    takes the one that the host's name stands for, which on Debian is loopback. Raises as :func:`rendezvous`.
    """
    place = rendezvous(variables, address_of=address_of)
    interface = interface_to(place.address) if place.world_size > 1 else None
    gloo = {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    return {**gloo, **variables, **torchrun_variables(place)}


def node_address(nodes: str) -> str:
    """``NodeAddr`` of the first node of a node list such as ``gpu[1-2]``: an address where the site has one.

    Nodes need not know each other's names. Raises ValueError when ``scontrol`` does not tell.
    """
    first = _scontrol("show", "hostnames", nodes).split()[0]
    told = _scontrol("show", "node", "-o", first)
    found = re.search(r"\bNodeAddr=(\S+)", told)
    if found is None:
        raise ValueError(f"scontrol must tell the NodeAddr of {first}, it said: {told.strip()[:200]}")
    return found[1]


def interface_to(address: str) -> str | None:
    """Name of this machine's interface towards an IPv4 address; None where none has it as its first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # a datagram socket sends nothing for it
        except OSError:
            return None
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == own:
                return name
    return None


def _offset(variables: Mapping[str, str]) -> int:
    """A number that differs between the steps that may share a node."""
    job, step = (_integer(variables, f"SLURM_{name}") for name in ("JOB_ID", "STEP_ID"))
    restarts = _integer({"SLURM_RESTART_COUNT": "0", **variables}, "SLURM_RESTART_COUNT")
    cluster = "\0".join(variables.get(name, "") for name in ("SLURM_CLUSTER_NAME", "SLURM_CONF"))
    return job + 101 * step + 1009 * restarts + zlib.crc32(cluster.encode())


def _integer(variables: Mapping[str, str], name: str) -> int:
    value = variables.get(name)
    if value is None or not value.isdecimal():
        raise ValueError(f"{name} must be a number that srun has set, got {value!r}: start the ranks by srun")
    return int(value)


def _scontrol(*arguments: str) -> str:
    command = ("scontrol", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SCONTROL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"{' '.join(command)} must work on the nodes, to find rank 0's address: {error}"
        ) from None
    if done.returncode or not done.stdout.strip():
        raise ValueError(
            f"{' '.join(command)} must work on the nodes, to find rank 0's address, it said: "
            f"{(done.stderr or done.stdout).strip()[:500]}"
        )
    return done.stdout


def main() -> None:
    """Become the command of the arguments, as a rank. Leaves with 1 where SLURM's variables don't fit."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: srun ... python -m tokensweep.cluster.rendezvous COMMAND [ARGUMENT ...]")
    try:
        environment = rank_environment(os.environ)
    except ValueError as error:
        raise SystemExit(f"tokensweep.cluster.rendezvous: {error}") from None
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
