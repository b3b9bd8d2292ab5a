"""Evaluation: n graded samples per problem, written as they come, so nothing is ever sampled twice.

A sample's seed depends on the evaluation seed, the problem and the sample's number only: two policies are
compared under common random numbers, an interrupted evaluation continues, and raising ``num_samples`` adds
samples to those that are there. Texts are stored, so a better grader needs no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from tokensweep.files import write_json
from tokensweep.identity import digest
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import Encode, answer_text
from tokensweep.problems import Answered, Grade, Problem, ProblemSource
from tokensweep.registry import build, without_labels
from tokensweep.rollout import Engine, Request, Rollout, SamplingSpec
from tokensweep.rollout.protocol import Rules
from tokensweep.rollout.rules import announce, pairs_of
from tokensweep.seeds import derive_seed
from tokensweep.verifier import stated_confidence
from tokensweep_analysis.certainty import stated_in
from tokensweep_analysis.majority import count_votes, normal_answer
from tokensweep_analysis.metrics import Kind, Metric, stated_metrics_of
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.samples import next_file, read_samples, regrade, write_samples

SHARD_SAMPLES = 512  # what an interrupted evaluation loses at most


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """What to sample. Raises ValueError for a k that needs more samples than there are."""

    suite: str
    eval_id: str
    revision: str  # of the suite's content
    step: int | None
    num_samples: int  # per problem
    k: tuple[int, ...]  # of pass@k, maj@k and pass^k
    seed: int
    sampling: SamplingSpec
    decode_hash: str  # engine, sampling, rule and prompt
    rules: Rules = ()  # of the sampling rule, as a request carries them
    tau: tuple[float, ...] = ()  # of cover@tau
    answer_space: int | None = None  # of the suite, for its guess floor

    def __post_init__(self) -> None:
        for k in self.k:
            if not 1 <= k <= self.num_samples:
                raise ValueError(
                    f"{self.suite}: pass@{k} needs at least {k} samples per problem, got {self.num_samples}: "
                    "raise eval.num_samples or drop it from eval.k"
                )

    @classmethod
    def of(cls, entry: Mapping[str, Any], *, engine: Mapping[str, Any]) -> EvalSpec:
        """From an entry of ``plan.json`` and the config node of the engine."""
        stop = tuple(entry["sampling"].get("stop", ()))
        rule = entry.get("rule")
        return cls(
            suite=entry["suite"],
            eval_id=entry["eval_id"],
            revision=entry["revision"],
            step=entry["step"],
            num_samples=entry["num_samples"],
            k=tuple(entry["k"]),
            tau=tuple(entry.get("tau", ())),  # a run that was planned before there was tau asked for none
            seed=entry["seed"],
            sampling=SamplingSpec(**{**entry["sampling"], "stop": stop}),
            decode_hash=digest(
                [
                    entry["sampling"],
                    without_labels(engine),
                    *entry.get("prompt", {}).values(),
                    *([rule] if rule else []),
                ]
            )[:12],
            rules=pairs_of(build(rule)) if rule else (),
            answer_space=entry.get("answer_space"),
        )

    @property
    def folder_name(self) -> str:
        """Name of the evaluation's folder under ``evals/``."""
        return f"{self.suite}-{self.eval_id}"


def announce_rules(entries: Iterable[Mapping[str, Any]], engine: Engine) -> None:
    """Tell an engine before its first ``load`` whether entries of ``plan.json`` are drawn by a rule."""
    announce((build(entry["rule"]) for entry in entries if entry.get("rule")), engine)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose samples these are, for the sample rows."""

    run_id: str
    config_hash: str
    seed: int | None  # of the training


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Rates of an evaluation; unless said otherwise each is a mean over all samples."""

    suite: str
    problems: int
    num_samples: int  # per problem
    avg: float  # mean over problems of the share of correct samples: avg@n
    pass_at: Mapping[int, float]  # unbiased estimate, mean over problems; so the next two
    pass_hat: Mapping[int, float]
    maj_at: Mapping[int, float]
    cover_at: Mapping[float, float]  # tau -> share of problems
    guess_floor: Mapping[int, float]  # pass@k of blind guessing; empty where the answer space is unknown
    avg_completed: float | None  # correct share of the samples that ended by themselves; None without any
    truncated_fraction: float  # hit the length limit
    no_answer_fraction: float
    error_fraction: float  # the grader failed; counted as not correct
    length_mean: float  # completion tokens
    length_max: int
    stated: Mapping[str, float]  # by key, what confidences say; empty where too few samples state one


def evaluate(
    policy: Policy,
    engine: Engine,
    source: ProblemSource,
    spec: EvalSpec,
    *,
    out_dir: Path,
    subject: Subject,
    encode: Encode,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    between: Callable[[], None] = lambda: None,
) -> Summary:
    """Draw and grade the samples that ``out_dir`` lacks, then write ``eval.json`` and give back the summary.

    ``engine`` has been loaded with ``policy``, ``encode`` turns the text of a prompt into token ids and
    ``indices`` are the problems to ask (None: all). ``progress`` hears (samples done, samples in total), and
    ``between`` is called before each shard of them, to raise what ends the evaluation there. Raises
    ValueError when stored samples are of another decoding or another version of the problems.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    stored = _stored(out_dir, spec)
    regrade_stored(out_dir, source)
    asked = range(len(source)) if indices is None else indices
    missing = [work for work in _work(source, asked, spec.num_samples) if (work[0].id, work[1]) not in stored]
    total = len(asked) * spec.num_samples
    row = _RowMaker(policy=policy, source=source, spec=spec, subject=subject, encode=encode)
    for start in range(0, len(missing), SHARD_SAMPLES):
        between()
        shard = missing[start : start + SHARD_SAMPLES]
        done = total - len(missing) + start
        write_samples(next_file(out_dir), _sample(engine, row, shard, _shifted(progress, done, total)))
    return _summarise_folder(out_dir, spec)


def regrade_stored(folder: Path, source: ProblemSource, *, always: bool = False) -> int:
    """Grade stored texts that another grader graded (or all of them); gives back how many grades changed.

    Needs no model; the new rows are written beside the old ones. Raises ValueError for a sample of a
    problem that is not in ``source``.
    """
    before = read_samples([folder])
    if before.empty or not (always or set(before["grader"]) - {source.grader}):
        return 0
    problems = {source[index].id: source[index] for index in range(len(source))}

    def grade(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        unknown = next((row["question_id"] for row in rows if row["question_id"] not in problems), None)
        if unknown is not None:
            raise ValueError(f"{folder} has a sample of {unknown!r}, which the suite does not have")
        answers = [
            Answered(
                problem=problems[row["question_id"]], text=row["text"], finish_reason=row["finish_reason"]
            )
            for row in rows
        ]
        return [
            _grading(grade, source.grader, answer.text)
            for answer, grade in zip(answers, source.grade_many(answers), strict=True)
        ]

    after = [row["grade"] for row in regrade(folder, grade)]
    return sum(old != new for old, new in zip(before["grade"], after, strict=True))


def regrade_entry(
    folder: Path, source: ProblemSource, entry: Mapping[str, Any], *, engine: Mapping[str, Any]
) -> int:
    """Grade all samples of a planned evaluation again and renew its summary; how many grades changed."""
    changed = regrade_stored(folder, source, always=True)
    _summarise_folder(folder, EvalSpec.of(entry, engine=engine))
    return changed


def _summarise_folder(folder: Path, spec: EvalSpec) -> Summary:
    summary = summarise(_chosen(folder, spec), spec=spec)
    write_json(folder / "eval.json", {**_plain(spec), "summary": asdict(summary)})
    return summary


def _grading(grade: Grade, grader: str, text: str) -> dict[str, Any]:
    """The columns of a sample row that are read in its text."""
    return {
        "confidence": stated_confidence(text),
        "extracted": grade.extracted,
        "extract_rule": grade.rule,
        "grade": grade.outcome.value,
        "grader": grader,
        "grader_status": grade.reason or "ok",
    }


def summarise(samples: pd.DataFrame, *, spec: EvalSpec) -> Summary:
    """The rates of sample rows, ``spec.num_samples`` for each problem."""
    correct = samples["grade"] == "correct"
    stopped = samples["finish_reason"] == "stop"
    votes = list(count_votes(samples).values())
    space = spec.answer_space
    return Summary(
        suite=spec.suite,
        problems=len(votes),
        num_samples=spec.num_samples,
        avg=Metric(Kind.pass_at, 1).mean(votes),
        pass_at={k: Metric(Kind.pass_at, k).mean(votes) for k in spec.k},
        pass_hat={k: Metric(Kind.pass_hat, k).mean(votes) for k in spec.k},
        maj_at={k: Metric(Kind.maj_at, k).mean(votes) for k in spec.k},
        cover_at={tau: Metric(Kind.cover_at, tau).mean(votes) for tau in spec.tau},
        guess_floor={} if space is None else {k: guess_floor(space, k) for k in spec.k},
        avg_completed=float(correct[stopped].mean()) if stopped.any() else None,
        truncated_fraction=float((~stopped).mean()),
        no_answer_fraction=float((samples["grade"] == "no_answer").mean()),
        error_fraction=float((samples["grade"] == "error").mean()),
        length_mean=float(samples["n_output_tokens"].mean()),
        length_max=int(samples["n_output_tokens"].max()),
        stated=_stated_numbers(samples, spec),
    )


def _stated_numbers(samples: pd.DataFrame, spec: EvalSpec) -> dict[str, float]:
    """Calibration and the weighted maj@k as far as they are defined."""
    stated = stated_in(samples, normal_answer)
    if stated is None:
        return {}
    means = {metric: float(stated.scores(metric).mean()) for metric in stated_metrics_of(spec.k)}
    known = {metric.key: mean for metric, mean in means.items() if isfinite(mean)}
    return {"stated_fraction": stated.fraction, **known, "ece_floor": stated.floor}


@dataclass(frozen=True, kw_only=True)
class _RowMaker:
    """Requests and sample rows of one evaluation."""

    policy: Policy
    source: ProblemSource
    spec: EvalSpec
    subject: Subject
    encode: Encode

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        return self.encode(self.source.prompt_text(problem))

    def seed(self, problem: Problem, sample: int) -> int:
        return derive_seed(self.spec.seed, "evaluate", self.spec.suite, problem.id, sample)

    def answered(self, problem: Problem, request: Request, rollout: Rollout) -> Answered:
        text = answer_text(
            self.policy.decode, prompt_ids=request.prompt_ids, completion_ids=rollout.completion_ids
        )
        return Answered(problem=problem, text=text, finish_reason=rollout.finish_reason)

    def row(
        self,
        answer: Answered,
        grade: Grade,
        sample: int,
        request: Request,
        rollout: Rollout,
        latency_s: float,
    ) -> dict[str, Any]:
        return {
            **asdict(self.subject),
            **_grading(grade, self.source.grader, answer.text),
            "arm": None,
            "step": self.spec.step,
            "benchmark": self.spec.suite,
            "benchmark_revision": self.spec.revision,
            "question_id": answer.problem.id,
            "sample_idx": sample,
            "sampling_seed": request.seed,
            "prompt_hash": digest(list(request.prompt_ids))[:12],
            "decode_hash": self.spec.decode_hash,
            "n_prompt_tokens": len(request.prompt_ids),
            "n_output_tokens": len(rollout.completion_ids),
            "finish_reason": rollout.finish_reason,
            "latency_s": latency_s,
            "text": answer.text,
        }


_Work = tuple[Problem, int]  # a problem and the number of the sample


def _work(source: ProblemSource, indices: Sequence[int], num_samples: int) -> Iterator[_Work]:
    """Samples of one problem stand together: its prompt is then read by the model once."""
    for index in indices:
        problem = source[index]
        for sample in range(num_samples):
            yield problem, sample


def _sample(
    engine: Engine, maker: _RowMaker, shard: Sequence[_Work], progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    """Draw and grade one shard; the latency of a sample is its share of the shard's time."""
    prompts = {problem.id: maker.prompt_ids(problem) for problem, _ in shard}
    requests = [
        Request(
            prompt_ids=prompts[problem.id],
            seed=maker.seed(problem, sample),
            sampling=maker.spec.sampling,
            rules=maker.spec.rules,
        )
        for problem, sample in shard
    ]
    start = time.perf_counter()
    rollouts = engine.generate(requests, progress=progress)
    latency_s = (time.perf_counter() - start) / len(shard)
    answers = [
        maker.answered(problem, request, rollout)
        for (problem, _), request, rollout in zip(shard, requests, rollouts, strict=True)
    ]
    grades = maker.source.grade_many(answers)
    return [
        maker.row(answer, grade, sample, request, rollout, latency_s)
        for (_, sample), answer, grade, request, rollout in zip(
            shard, answers, grades, requests, rollouts, strict=True
        )
    ]


def _stored(folder: Path, spec: EvalSpec) -> set[tuple[str, int]]:
    """The samples that are there, after checking that they belong to this evaluation."""
    frame = read_samples([folder])
    for column, expected in (("decode_hash", spec.decode_hash), ("benchmark_revision", spec.revision)):
        other = sorted(set(frame[column]) - {expected})
        if other:
            raise ValueError(
                f"{folder} holds samples with {column} {other[0]}, this evaluation has {expected}: "
                "move the folder away"
            )
    return set(zip(frame["question_id"], frame["sample_idx"], strict=True))


def _chosen(folder: Path, spec: EvalSpec) -> pd.DataFrame:
    """The first ``num_samples`` samples of every problem: an earlier, larger evaluation changes nothing."""
    frame = read_samples([folder])
    return frame[frame["sample_idx"] < spec.num_samples]


def _shifted(
    progress: Callable[[int, int], None] | None, done: int, total: int
) -> Callable[[int], None] | None:
    """The engine's count of completions that just ended, as a count of samples done."""
    if progress is None:
        return None
    so_far = done

    def forward(ended: int) -> None:
        nonlocal so_far
        so_far += ended
        progress(so_far, total)

    return forward


def _plain(spec: EvalSpec) -> dict[str, Any]:
    return {**asdict(spec), "k": list(spec.k), "tau": list(spec.tau)}
