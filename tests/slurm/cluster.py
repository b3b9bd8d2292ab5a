"""What tests do with a development cluster, through its command line and SLURM's own."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "slurm" / "devcluster"
_PATIENCE_S = 180.0
_ENDED = re.compile("BOOT_FAIL|CANCELLED|COMPLETED|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REQUEUED|TIMEOUT")


@dataclass(frozen=True)
class Devcluster:
    """A development cluster in a folder of its own."""

    folder: Path

    def script(self, action: str) -> subprocess.CompletedProcess[str]:
        """``devcluster up``, ``down`` or ``status`` for this cluster."""
        command = [str(SCRIPT), "--folder", str(self.folder), action]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def daemon(self, name: str) -> int:
        """The process number that ``status`` tells of a daemon."""
        told = self.script("status").stdout
        match = re.search(rf"^{name} +(\d+) ", told, re.MULTILINE)
        assert match, told
        return int(match[1])

    def run(self, *command: str) -> str:
        """What a command prints whose SLURM is this cluster."""
        done = subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def idle(self) -> None:
        """Wait until the queue is empty."""
        deadline = time.monotonic() + _PATIENCE_S
        while queued := self.run("squeue", "--noheader"):
            assert time.monotonic() < deadline, queued
            time.sleep(0.2)

    def submit(self, script: str, *options: str) -> str:
        """The number of a new batch job; its tasks and attempts write one file, see ``output``."""
        output = ("--output", f"{self.folder}/%A.out", "--open-mode=append")
        return self.run("sbatch", "--parsable", *output, *options, "--wrap", script)

    def wait_for(self, line: str, job: str) -> None:
        """Wait until a job has printed a line."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (self.folder / f"{job}.out").exists() or line not in self.output(job):
            assert time.monotonic() < deadline, f"job {job} does not print {line} within {_PATIENCE_S:g} s"
            time.sleep(0.1)

    def saved(self, job: str) -> None:
        """Wait until slurmctld has saved that a job, or the task JOB_INDEX of an array, runs.

        It saves at most every five seconds, and after a kill the next one knows no more than that. One that
        knows of the submission alone ends the job on its node ("Registered PENDING JobId") and starts it
        once more, which the node may refuse ("Job credential revoked", FAILED with exit code 1:0).
        """
        mark = f"saved-{secrets.token_hex(8)}"
        deadline = time.monotonic() + _PATIENCE_S
        while not self.run("squeue", "--noheader", f"--jobs={job}", "--states=RUNNING"):
            assert time.monotonic() < deadline, f"job {job} does not run within {_PATIENCE_S:g} s"
            time.sleep(0.1)
        self.run("scontrol", "update", f"jobid={job}", f"comment={mark}")  # to be saved, with all the rest
        while mark.encode() not in self._state():
            assert time.monotonic() < deadline, f"job {job} is not saved within {_PATIENCE_S:g} s"
            time.sleep(0.1)

    def _state(self) -> bytes:
        """The jobs as slurmctld saved them last."""
        try:
            return (self.folder / "slurmctld" / "job_state").read_bytes()
        except FileNotFoundError:  # none yet, or the next one is about to get its name
            return b""

    def output(self, job: str) -> list[str]:
        """The lines that a job printed, without SLURM's own."""
        lines = (self.folder / f"{job}.out").read_text().splitlines()
        return [line for line in lines if not line.startswith("slurmstepd")]

    def ended(self, job: str, *, rows: int = 1, fields: str = "state") -> list[str]:
        """What sacct tells of a job, once it knows the end of that many tasks or attempts; oldest first.

        sacct learns of a start or an end a second after squeue, so an empty queue is not enough.
        """
        sacct = ("sacct", "-X", "--noheader", "--parsable2", "--duplicates", f"--jobs={job}")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            queued = self.run("squeue", "--noheader", f"--jobs={job}")
            states = self.run(*sacct, "--format=state").splitlines()
            if not queued and len(states) >= rows and all(_ENDED.match(state) for state in states):
                return self.run(*sacct, f"--format={fields}").splitlines()
            assert time.monotonic() < deadline, f"job {job} after {_PATIENCE_S:g} s: {queued} {states}"
            time.sleep(0.2)
