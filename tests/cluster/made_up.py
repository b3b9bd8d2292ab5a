"""Made-up stores: runs whose ledgers say what a test wants, and submissions of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster.fake_slurm import FakeSlurm

from tokensweep.cluster.reconcile import RunState, look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.site import Request
from tokensweep.cluster.status import state_of
from tokensweep.cluster.submission import Submission, new_submission, record_job, submissions
from tokensweep.files import write_json
from tokensweep.ledger import Attempt

REQUEST = Request(partition=None, qos=None, nodes=1, gpus=0, cpus=1, mem_gb=1.0, minutes=30, ranks=1)


@dataclass(frozen=True)
class Store:
    """A store in a folder, with one sweep ``s``."""

    path: Path

    def run(self, run_id: str, *attempts: Sequence[str], samples: int = 4) -> Path:
        """A run of 2 steps and one suite of 4 samples; an attempt is a list of words, see ``_work``."""
        folder = self.path / "runs" / run_id
        if not (folder / "plan.json").is_file():
            evals = [{"suite": "ops", "eval_id": "e", "num_samples": 4, "k": [1], "answer_space": 10}]
            plan = {"run_id": run_id, "code_sha": "c0de", "identity": {"seed": 0}, "steps": 2}
            method = {"name": "grpo", "paper": "arXiv:2402.03300", "evidence": "paper"}
            compute = {"threads": 1, "hang_s": 0}
            write_json(folder / "config.json", {"compute": compute, "method": method})
            write_json(folder / "plan.json", {**plan, "evals": evals})
        for words in attempts:
            with Attempt.open(folder) as attempt:
                attempt.log.write_text("first line\nlast line\n")
                for word in words:
                    _work(attempt, word, samples)
        return folder

    def sweep(self, *run_ids: str, name: str = "s", arms: Mapping[str, str] | None = None) -> None:
        """``sweep.json`` with these runs, each a seed of arm ``a`` if ``arms`` says nothing else."""
        entries = [
            {"setting": "ops", "arm": (arms or {}).get(run_id, "a"), "seed": seed, "run_id": run_id}
            for seed, run_id in enumerate(run_ids)
        ]
        runs = [{**entry, "overrides": [], "evals": {"ops": "e"}} for entry in entries]
        write_json(self.path / "sweeps" / name / "sweep.json", {"name": name, "scale": "tiny", "runs": runs})

    def submitted(
        self,
        stage: str,
        *tasks: str,
        job: str | None = "101",
        age_s: float = 0.0,
        sweep: str = "s",
        attempts: Mapping[str, int] | None = None,
        snapshot: str | None = None,
    ) -> Submission:
        """A submission; a task names its runs with a plus between them, ``job`` None: without a number."""
        made = [tuple(task.split("+")) for task in tasks] if stage != "report" else [()]
        runs = {
            r: {"threads": 1, "hang_s": 0, "attempts": (attempts or {}).get(r, 0)} for t in made for r in t
        }
        submission = new_submission(
            self.path,
            sweep=sweep,
            stage=stage,
            order=1 + max((one.order for one in submissions(self.path)), default=0),
            tasks=made,
            snapshot=snapshot,
            site="devcluster",
            more={"runs": runs, "request": asdict(REQUEST)},
        )
        if age_s:
            self.change(submission, created=submission.created - age_s)
        return record_job(submission, job) if job is not None else submission

    def queued(self, slurm: FakeSlurm, stage: str, *tasks: str, **more: Any) -> str:
        """A submission that SLURM knows; gives back the number of its job."""
        made = self.submitted(stage, *tasks, job=None, **more)
        number = slurm.add(made.job_name, max(1, len(tasks)))
        record_job(made, number)
        return number

    def change(self, submission: Submission, **changes: Any) -> None:
        """Write other values into ``submission.json``."""
        path = submission.folder / "submission.json"
        write_json(path, {**_json(path), **changes})

    def state(self, run_id: str) -> RunState:
        """The state of a run with what SLURM says now."""
        return state_of(self.path / "runs" / run_id, look(self.path, Scheduler()))[1]


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _work(attempt: Attempt, word: str, samples: int) -> None:
    if word == "step":
        attempt.metrics(1, {"reward": 0.5, "tokens/generated": 100.0})
    elif word == "train":
        attempt.metrics(2, {"reward": 0.5, "tokens/generated": 100.0})
        attempt.event("trained", step=2)
    elif word == "evaluate":
        attempt.event("evaluated", suite="ops", eval_id="e", num_samples=samples)
    elif word == "left":  # something for another stage
        attempt.event("finished", stage="train")
    elif word == "failed":
        attempt.event("failed", error="the loss is nan", **{"class": "nan"})
    else:
        attempt.event(word)
