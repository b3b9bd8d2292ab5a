"""A pretended SLURM: its commands over jobs in one file, for what a real one does rarely or too late.

``FakeSlurm(folder)`` puts sbatch, squeue, sacct, scontrol, sacctmgr, scancel and srun into ``folder/bin``.
Nothing runs: a test says what becomes of a task. This file is both the class and the commands.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "sacctmgr", "scancel", "srun")
_ENDED = (
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
)
_START = {"next": 101, "jobs": [], "refusal": "", "down": False, "limit": 1000, "array_size": 1001}


class FakeSlurm:
    """The jobs of a folder. A task is called as SLURM calls it: ``101_2``, or ``101``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text(json.dumps(_START))
        for name in _COMMANDS:
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {folder} {name} "$@"\n')
            script.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with the commands first."""
        return f"{self.bin}:{os.environ['PATH']}"

    def jobs(self, name: str = "") -> list[dict[str, Any]]:
        """All tasks whose job name contains ``name``, also forgotten ones."""
        with _state(self.folder) as state:
            return [job for job in state["jobs"] if name in job["name"]]

    def living(self, name: str = "") -> list[str]:
        """Keys of the tasks in the queue."""
        return [job["key"] for job in self.jobs(name) if job["queue"] and job["state"] not in _ENDED.split()]

    def add(self, name: str, tasks: int) -> str:
        """A job as sbatch makes it; gives back its number."""
        with _state(self.folder) as state:
            return _add(state, name, "", tasks)

    def tell(self, key: str, **changes: Any) -> None:
        """Change a task, or all tasks of a job: state, reason, node, restarts, queue, accounting.

        ``queue`` and ``accounting`` say whether squeue and sacct know of it.
        """
        with _state(self.folder) as state:
            found = [job for job in state["jobs"] if key in (job["key"], job["job"])]
            assert found, key
            for job in found:
                job.update(changes)

    def set(self, **changes: Any) -> None:
        """Change SLURM itself: refusal (of sbatch), down, limit (of jobs in the queue), array_size."""
        with _state(self.folder) as state:
            state.update(changes)

    def calls(self, command: str = "") -> list[str]:
        """What was called, with arguments."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(command)]


@contextmanager
def _state(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "state.json"
        state = json.loads(path.read_text())
        yield state
        path.write_text(json.dumps(state))


def _add(state: dict[str, Any], name: str, dependency: str, tasks: int) -> str:
    number = str(state["next"])
    state["next"] += 1
    for task in range(tasks):
        job = {
            "job": number,
            "task": task if tasks > 1 else None,
            "key": f"{number}_{task}" if tasks > 1 else number,
            "name": name,
            "state": "PENDING",
            "reason": "Dependency" if dependency else "Priority",
            "dependency": dependency,
            "node": "",
            "restarts": 0,
            "submit": int(time.time()),
            "queue": True,
            "accounting": False,
        }
        state["jobs"].append(job)
    return number


def _sbatch(state: dict[str, Any], arguments: list[str]) -> str:
    if state["refusal"]:
        _complain(f"sbatch: error: Batch job submission failed: {state['refusal']}")
    text = Path(arguments[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    last = re.match(r"0-(\d+)", options.get("array", "0-0"))
    assert last is not None
    number = _add(state, options["job-name"], options.get("dependency", ""), int(last[1]) + 1)
    return f"Submitted batch job {number}"


def _squeue(state: dict[str, Any], arguments: list[str]) -> str:
    known = [job for job in state["jobs"] if job["queue"]]
    if "--format=%i" in arguments:
        return "\n".join(job["key"] for job in known if job["state"] not in _ENDED.split())
    names = next(text for text in arguments if text.startswith("--name=")).removeprefix("--name=").split(",")
    rows = []
    for job in known:
        if job["name"] not in names:
            continue
        task = "N/A" if job["task"] is None else job["task"]
        code = {"FAILED": 256, "COMPLETED": 0}.get(job["state"], 15)
        row = (job["job"], task, job["name"], job["state"], job["reason"] or "None", job["node"], code)
        rows.append((*row, job["restarts"], job["submit"], "N/A", "N/A", "0:00", "30:00"))
    return "\n".join("".join(f"{value}|" for value in row) for row in rows)


def _sacct(state: dict[str, Any], arguments: list[str]) -> str:
    names = next(text for text in arguments if text.startswith("--name=")).removeprefix("--name=").split(",")
    rows = []
    for job in state["jobs"]:
        if job["name"] in names and job["accounting"]:
            key = job["accounting"] if isinstance(job["accounting"], str) else job["key"]
            word = f"{job['state']} by 0" if job["state"] == "CANCELLED" else job["state"]
            rows.append((key, job["name"], word, "0:0", job["node"], job["submit"], "Unknown", "Unknown", 0))
    return "\n".join(dict.fromkeys("|".join(map(str, row)) for row in rows))


def _scancel(state: dict[str, Any], arguments: list[str]) -> str:
    for job in state["jobs"]:
        if {job["key"], job["job"]} & set(arguments) and job["state"] not in _ENDED.split():
            job.update(state="CANCELLED", queue=True)
    return ""


def _scontrol(state: dict[str, Any], arguments: list[str]) -> str:
    assert arguments == ["show", "config"], arguments
    return (
        f"ClusterName = fake\nMaxArraySize = {state['array_size']}\nMaxJobCount = 10000\n"
        "AccountingStorageEnforce = associations,limits"
    )


def _sacctmgr(state: dict[str, Any], arguments: list[str]) -> str:
    if "assoc" in arguments:
        return f"dev||{state['limit']}|normal|normal"
    return "dev" if "user" in arguments else "normal|"


def _complain(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(1)


def _main(folder: Path, command: str, arguments: list[str]) -> None:
    with (folder / "calls.log").open("a") as log:
        log.write(f"{command} {' '.join(arguments)}\n")
    delay = folder / f"{command}.wait"
    while delay.exists():
        time.sleep(0.02)
    with _state(folder) as state:
        if state["down"]:
            _complain(f"{command}: error: Unable to contact slurm controller (connect failure)")
        text = globals()[f"_{command}"](state, arguments)
    if text:
        print(text)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
