"""Training of one run from its frozen config: collect, score, prepare, update, checkpoint, step by step.

Everything random comes from seeds derived from (run seed, purpose, step, problem, sample), and everything
else that a step depends on is in the checkpoint: a run that was killed anywhere goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokensweep.identity import digest, identity_of
from tokensweep.ledger import Attempt, Kind
from tokensweep.loss.method import Method, adapt, at_step
from tokensweep.loss.objective import Prepared, prepare, score
from tokensweep.loss.probe import StateProbe, States
from tokensweep.loss.slots import Memory
from tokensweep.loss.tables import Batch
from tokensweep.seeds import derive_seed
from tokensweep.train import metrics as measure
from tokensweep.train.batch import Plan, build_batch, divide, own_part, trusting_trainer
from tokensweep.train.checkpoint import (
    Checkpoint,
    Progress,
    await_checkpoint,
    checkpoint_folder,
    clear_leftovers,
    load_optimizer,
    newest_checkpoint,
    save_checkpoint,
)
from tokensweep.train.collect import Collected
from tokensweep.train.passes import Ahead, Scorer, autocast, statistics_in
from tokensweep.train.ranks import ALONE, Ranks, check_same_weights
from tokensweep.train.setup import (
    Parts,
    assemble_everywhere,
    collector_of,
    optimizer_of,
    policy_of,
    prepare_torch,
    reference_policy,
)
from tokensweep.train.stored import store_rollouts
from tokensweep.train.throughput import throughput
from tokensweep.train.update import Updater


class PreemptedError(Exception):
    """The training was asked to stop and can be continued from where it was."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training."""

    step: int
    checkpoint: Path  # loads as a Hugging Face model


def run_training(
    config: Mapping[str, Any],
    run_dir: Path,
    attempt: Attempt | None,
    *,
    cache: Path,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> TrainResult:
    """Train the run of a frozen config to its last step, from its newest checkpoint if it has one.

    Metrics and events go to ``attempt``, checkpoints and stored rollouts to ``run_dir``, models to ``cache``.
    ``on_progress`` hears (steps done, steps in total); ``should_stop`` is asked before every step. Raises
    PreemptedError when it said so, with every step so far in a checkpoint, ValueError for a config, data or a
    checkpoint that cannot be used, NonFiniteError when the loss or its gradient is no number.

    With several ``ranks``, each calls this with the same arguments, but for ``attempt``: only rank 0 has one
    and writes. They stop together when ``should_stop`` says so to any; when one fails, all of them raise.
    """
    assert (attempt is not None) == ranks.leads
    prepare_torch(config["compute"])
    parts = assemble_everywhere(config, cache=cache, ranks=ranks)
    steps = config["steps"]
    with closing(parts.engine):
        training = _Training(config, run_dir, attempt, parts=parts, ranks=ranks)
        while training.progress.step < steps:
            if ranks.any(should_stop()):
                training.save()
                raise PreemptedError(f"asked to stop after step {training.progress.step} of {steps}")
            training.step()
            if on_progress is not None:
                on_progress(training.progress.step, steps)
    if attempt is not None:
        attempt.event(Kind.trained, step=steps)
    return TrainResult(step=steps, checkpoint=training.checkpoint)


class _Training:
    """The state of a run in memory."""

    def __init__(
        self,
        config: Mapping[str, Any],
        run_dir: Path,
        attempt: Attempt | None,
        *,
        parts: Parts,
        ranks: Ranks,
    ) -> None:
        self.config, self.run_dir, self.attempt, self.ranks = config, run_dir, attempt, ranks
        self.owner = digest(identity_of(config))
        self.parts = parts
        found = _found(run_dir / "checkpoints", owner=self.owner, ranks=ranks)
        self.saved = found.progress.step if found else 0  # the newest step in a checkpoint
        self.checkpoint = found.folder if found else parts.model_folder
        self.progress = found.progress if found else Progress()
        with ranks.agreed():
            self.policy = policy_of(config, parts, checkpoint=found.folder if found else None)
            fused = config["compute"].get("fused_optimizer", True)  # older configs do not have it
            self.optimizer = optimizer_of(self.policy, config["optim"], fused=fused)
            if found:
                load_optimizer(found.folder, policy=self.policy, optimizer=self.optimizer)
        with ranks.agreed():  # of its own: ranks that share an engine come to it together, or not at all
            parts.engine.load(self.policy, version=self.progress.step)
            self.collector = collector_of(config, parts, self.policy, ranks=ranks)
            temperature = config["sampling"]["temperature"]
            self.scorer = Scorer(policy=self.policy, temperature=temperature, dtype=parts.dtype)
            reference = reference_policy(parts)
        self.supply = parts.method.source.open(self.collector, folder=run_dir / "source")
        self.reference = replace(self.scorer, policy=reference) if reference else None
        self.updater = Updater(
            scorer=self.scorer,
            optimizer=self.optimizer,
            grad_clip=config["optim"]["grad_clip"],
            ranks=ranks,
            reference=self.reference,
        )

    def step(self) -> None:
        """One optimiser batch, with its metrics, stored rollouts and checkpoint."""
        number = self.progress.step + 1
        method = at_step(self.parts.method, number - 1)
        lr = self._set_lr(number)
        watch = measure.Stopwatch()
        with watch.phase("rollout"), autocast(self.policy, self.parts.dtype):
            collected = self.supply.collect(
                step=number,
                position=self.progress.position,
                allocation=method.allocation,
                sampling=method.sampling,
                phase=watch.phase,
            )
        self.parts.engine.rest()
        values = {
            "lr": lr,
            **_scheduled(self.parts.method, number - 1),
            **measure.sampling_metrics(collected),
            "sampled/dropped_prompts": float(len(self.parts.source) - len(self.collector.indices)),
        }
        memories = self.progress.memories
        if collected.kept:
            updated, memories = self._train_on(collected, method=method, step=number, watch=watch)
            values |= updated
        else:
            self._note(
                f"step {number}: no group was kept after {collected.rounds} rounds, so there is no update"
            )
            skipped = float(method.updates_per_batch)
            values |= {"updates": 0.0, "skipped_updates": skipped, "tokens/trained": 0.0}
        self._advance(collected, updates=int(values["updates"]), memories=memories)
        values["tokens/total_generated"] = float(self.progress.generated_tokens)
        if self.supply.on_policy:
            with watch.phase("sync"):
                self.parts.engine.load(self.policy, version=number)
        values |= throughput(
            values, watch.seconds, policy=self.policy, dtype=self.parts.dtype, ranks=self.ranks
        )
        check_same_weights(list(self.policy.trained.values()), ranks=self.ranks, step=number)
        # Before the checkpoint: what is in a checkpoint is never computed again, so its row must be there.
        with self.ranks.agreed():
            if self.attempt is not None:
                self.attempt.metrics(number, {**values, **watch.seconds})
        self._save_if_due()

    def _train_on(
        self, collected: Collected, *, method: Method, step: int, watch: measure.Stopwatch
    ) -> tuple[dict[str, float], Mapping[str, Memory]]:
        """Old-policy pass and update; the metrics of both, and what the method remembers of them."""
        with watch.phase("old_pass"):
            batch, own, ahead = self._scored(collected, method=method, step=step)
            method, memories = adapt(method, self.progress.memories, batch)
            prepared = prepare(method, batch)
        del batch  # its columns that the update does not read may be large
        with self.ranks.agreed():
            self._store_if_due(collected, prepared=prepared, step=step)
        states = self._states(method, prepared, watch=watch)
        with watch.phase("update"):
            updated = self.updater.update(method, prepared, own, ahead=ahead)
        probed = {}
        if method.probes:
            with watch.phase("probe"):
                probed = self._probed(method, prepared, own, states=states)
        sampling = self.collector.sampling
        comparable = self.supply.on_policy and sampling.top_p == 1 and sampling.top_k == 0
        values = {
            **measure.batch_metrics(prepared.batch),
            **measure.policy_metrics(prepared),
            **measure.kept_metrics(method, prepared),
            **(measure.mismatch_metrics(prepared.batch) if comparable else {}),
            **{f"method/{name}": value for name, value in prepared.measured.items()},
            **updated,
            **probed,
            **_remembered(memories),
        }
        return values, memories

    def _states(self, method: Method, prepared: Prepared, *, watch: measure.Stopwatch) -> dict[str, States]:
        """What the probes read before the update, by key; the same on every rank."""
        rows = {
            key: probe.rows(prepared.batch)
            for key, probe in method.probes.items()
            if isinstance(probe, StateProbe)
        }
        if not rows:
            return {}
        with watch.phase("probe"), self.ranks.agreed():
            return {key: self.scorer.states(prepared.batch, rows=r) for key, r in rows.items() if r.numel()}

    def _probed(
        self, method: Method, prepared: Prepared, own: Plan, *, states: Mapping[str, States]
    ) -> dict[str, float]:
        """What the probes tell of the batch, with one more pass where they look at the policy after it."""
        columns: dict[str, Tensor] = {}
        if needs := statistics_in(method.needs_after(), of="new"):
            with self.ranks.agreed():
                new = self.scorer.everywhere(prepared.batch, plan=own, needs=needs)
            columns = {f"new_{name}": values for name, values in new.items()}
            self.ranks.add(list(columns.values()))
        batch = prepared.batch.with_columns(
            advantages=prepared.advantages, weights=prepared.weights, **columns
        )
        told = {key: dict(probe(batch)) for key, probe in method.probes.items()}
        for key, probe in method.probes.items():
            if isinstance(probe, StateProbe) and key in states:
                told[key] |= probe.of_states(batch, states[key])
        return {f"probe/{key}/{name}": value for key, each in told.items() for name, value in each.items()}

    def _store_if_due(self, collected: Collected, *, prepared: Prepared, step: int) -> None:
        settings = self.config["store_rollouts"]
        if not self.ranks.leads or not settings["every"] or not settings["share"] or step % settings["every"]:
            return
        store_rollouts(
            self.run_dir / "rollouts" / f"step-{step:06d}.parquet",
            groups=collected.kept,
            prepared=prepared,
            step=step,
            share=settings["share"],
            seed=self.config["seed"],
        )

    def _scored(self, collected: Collected, *, method: Method, step: int) -> tuple[Batch, Plan, Ahead | None]:
        """The batch of the kept groups with what old and reference policy say; this rank's part of its plan.

        The first pack of the part has been run, with gradient, by then: the update goes on from there.
        """
        config, device = self.config, self.parts.device
        seed = derive_seed(config["seed"], "batch", step)
        batch = build_batch(
            collected.kept, method=method, max_tokens=config["sampling"]["max_tokens"], seed=seed
        )
        batch, plan = divide(batch, method=method, micro_tokens=config["batch"]["micro_tokens"], seed=seed)
        batch = batch.to(device)
        plan = tuple(tuple(micro.to(device) for micro in mini_batch) for mini_batch in plan)
        extra = statistics_in(method.needs(), of="old")
        own = own_part(plan, self.ranks)
        if step == 1 and (fewest := min(len(micros) for micros in plan)) < self.ranks.size:
            self._note(
                f"a mini-batch has only {fewest} micro-batches for {self.ranks.size} ranks, so some have "
                "nothing to do in its update; a smaller batch.micro_tokens gives more, and is another run"
            )
        with self.ranks.agreed():
            # With a reference beside it the update's forward is another one.
            usable = own[0] and "ref_divergence" not in method.needs()
            ahead = self.scorer.ahead(batch, plan=own, needs=extra) if usable else None
            old = self.scorer.everywhere(batch, plan=own, needs=extra, ahead=ahead)
            columns = {f"old_{name}": values for name, values in old.items()}
            if asked := method.needs() & {"ref_logprobs", "ref_entropy"}:
                assert self.reference is not None
                said = self.reference.everywhere(batch, plan=own)
                columns |= {name: said[name.removeprefix("ref_")] for name in sorted(asked)}
        self.ranks.add(list(columns.values()))
        batch = trusting_trainer(batch.with_columns(**columns))
        return replace(batch, rewards=score(method, batch)), own, ahead

    def _set_lr(self, step: int) -> float:
        """Linear warm-up over the first ``optim.warmup_steps`` optimiser batches, then constant."""
        warmup = self.config["optim"]["warmup_steps"]
        lr = float(self.config["optim"]["lr"] * min(1.0, step / max(1, warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _advance(self, collected: Collected, *, updates: int, memories: Mapping[str, Memory]) -> None:
        before = self.progress
        self.progress = replace(
            before,
            step=before.step + 1,
            position=collected.position,
            updates=before.updates + updates,
            generated_tokens=before.generated_tokens + measure.generated_tokens(collected),
            memories=memories,
        )

    def _save_if_due(self) -> None:
        step = self.progress.step
        if step % self.config["checkpoint"]["every"] == 0 or step == self.config["steps"]:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the last step, if it has none yet."""
        step, root = self.progress.step, self.run_dir / "checkpoints"
        if step == self.saved:
            return
        with self.ranks.agreed():  # when the block ends, the checkpoint is there
            if self.attempt is not None:
                save_checkpoint(
                    root,
                    policy=self.policy,
                    optimizer=self.optimizer,
                    progress=self.progress,
                    owner=self.owner,
                    keep=self.config["checkpoint"]["keep"],
                    ranks=self.ranks.size,
                )
                self.attempt.event(Kind.checkpoint, step=step)
        self.saved, self.checkpoint = step, checkpoint_folder(root, step=step)

    def _note(self, text: str) -> None:
        """Print for the run's log, once and not on every rank."""
        if self.ranks.leads:
            print(text)


def _found(root: Path, *, owner: str, ranks: Ranks) -> Checkpoint | None:
    """The checkpoint to go on from, the same on every rank: the first says which."""
    found = None
    with ranks.agreed():
        if ranks.leads:
            clear_leftovers(root)
            found = newest_checkpoint(root, owner=owner, note=print)
    name = ranks.first(found.folder.name if found else None)
    with ranks.agreed():
        if name is not None and not ranks.leads:
            found = await_checkpoint(root / name, owner=owner)
    now = (torch.get_num_threads(), ranks.size)
    if found and ranks.leads and (found.threads, found.ranks) != now:
        print(
            f"{found.folder.name} was computed by {found.ranks} ranks with {found.threads} threads each, now "
            f"there are {now[1]} with {now[0]}: the last bits may differ"
        )
    return found


def _scheduled(method: Method, index: int) -> dict[str, float]:
    return {f"schedule/{name}": schedule.value(index) for name, schedule in method.schedules.items()}


def _remembered(memories: Mapping[str, Memory]) -> dict[str, float]:
    return {
        f"memory/{where}.{name}": value
        for where, memory in memories.items()
        for name, value in memory.items()
    }
