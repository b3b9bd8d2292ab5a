"""Evaluation: every sample is drawn once, and the rates are those of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tokensweep.evaluate import EvalSpec, Subject, Summary, evaluate, regrade_entry, regrade_stored
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import ModelPrompt
from tokensweep.problems import Answered, Grade, Outcome, Problem, grade_each
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.rollout.fake import FakeEngine
from tokensweep.rollout.rules import TwoTemperatures, pairs_of
from tokensweep.train.setup import encoder
from tokensweep.verifier import after_thinking, without_statements
from tokensweep_analysis.samples import read_samples

_SUBJECT = Subject(run_id="run", config_hash="abc", seed=7)
_SAMPLING = SamplingSpec(max_tokens=4)


@dataclass(frozen=True)
class Digits:
    """``size`` prompts; "1" is right, "2" wrong, "?" breaks the grader, anything else holds no answer."""

    size: int = 3

    name = "digits"
    grader = "digits/1"
    max_tokens = 4
    answer_space = 2

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        return Problem(id=f"q{index}", prompt=f"{index}=", answer="1")

    def check(self) -> None:
        return

    def content_hash(self) -> str:
        return "digits"

    def prompt_text(self, problem: Problem) -> str:
        return problem.prompt

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        outcomes = {"1": Outcome.correct, "2": Outcome.wrong, "?": Outcome.error}
        outcome = Outcome.truncated if finish_reason == "length" else outcomes.get(text, Outcome.no_answer)
        reason = "timeout" if outcome is Outcome.error else ""
        return Grade(outcome=outcome, extracted=text if text in "12" else None, rule="whole", reason=reason)

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        return grade_each(self, answers)


class Counting(FakeEngine):
    """Keeps the seeds of everything it was asked for, and may fail after some calls."""

    def __init__(self, policy: Policy, *, texts: tuple[str, ...] = ("1", "2"), calls: int = 99) -> None:
        super().__init__(texts)
        self.load(policy, version=0)
        self.seeds: list[int] = []
        self.calls = calls

    def generate(
        self, requests: Sequence[Request], *, progress: Callable[[int], None] | None = None
    ) -> list[Rollout]:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.seeds += [request.seed for request in requests]
        return super().generate(requests, progress=progress)


def spec(*, num_samples: int = 4, k: tuple[int, ...] = (1, 2), **changes: Any) -> EvalSpec:
    given: dict[str, Any] = {"suite": "digits", "eval_id": "e1", "revision": "r1", "step": 20, "seed": 0}
    given |= {"sampling": _SAMPLING, "decode_hash": "d1"} | changes
    return EvalSpec(num_samples=num_samples, k=k, **given)


def run(policy: Policy, folder: Path, *, engine: FakeEngine, spec: EvalSpec, **options: Any) -> Summary:
    encode = encoder(ModelPrompt(), policy, chat=False)
    return evaluate(
        policy, engine, Digits(), spec, out_dir=folder, subject=_SUBJECT, encode=encode, **options
    )


def test_the_rates_are_those_of_the_samples(tmp_path: Path, policy: Policy) -> None:
    summary = run(policy, tmp_path, engine=Counting(policy), spec=spec())
    rows = read_samples([tmp_path])
    counts = [int((rows[rows.question_id == f"q{i}"].grade == "correct").sum()) for i in range(3)]
    assert summary.avg == pytest.approx(sum(counts) / 12)
    assert summary.pass_at[1] == pytest.approx(sum(counts) / 12)
    # pass@2 of 4 samples: 1 - C(wrong, 2) / C(4, 2), with C(w, 2) = w (w - 1) / 2 and C(4, 2) = 6.
    expected = [1 - (4 - c) * (3 - c) / 2 / 6 for c in counts]
    assert summary.pass_at[2] == pytest.approx(sum(expected) / 3)
    assert 0 < summary.avg < 1
    assert (summary.problems, summary.num_samples) == (3, 4)
    assert (summary.length_mean, summary.length_max) == (2.0, 2)  # one character and the end token


def test_reliability_is_that_of_the_samples(tmp_path: Path, policy: Policy) -> None:
    summary = run(policy, tmp_path, engine=Counting(policy), spec=spec(k=(1, 4), tau=(0.5,), answer_space=2))
    rows = read_samples([tmp_path])
    counts = [int((rows[rows.question_id == f"q{i}"].grade == "correct").sum()) for i in range(3)]
    assert set(counts) - {0, 4}  # not all of a kind, or the next lines say little
    # All 4 samples are drawn and the wrong ones all say "2": more than two right ones win, two tie.
    assert summary.maj_at[4] == pytest.approx(sum((c > 2) + (c == 2) / 2 for c in counts) / 3)
    assert summary.pass_hat[4] == pytest.approx(counts.count(4) / 3)
    assert summary.cover_at[0.5] == pytest.approx(sum(c >= 2 for c in counts) / 3)
    assert summary.maj_at[1] == summary.pass_hat[1] == pytest.approx(summary.avg)
    # Two possible answers: one guess hits half of the time, four miss with probability 1/16.
    assert summary.guess_floor == {1: pytest.approx(1 / 2), 4: pytest.approx(15 / 16)}


class Sure(Digits):
    """Digits whose completions may say how sure they are, behind a semicolon."""

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        return super().grade(problem, without_statements(text).removesuffix(";"), finish_reason)


def test_stated_confidences_are_stored_and_measured(tmp_path: Path, policy: Policy) -> None:
    texts = ("1;CONFIDENCE:0.75", "2;CONFIDENCE:25%")
    summary = evaluate(
        policy,
        Counting(policy, texts=texts),
        Sure(),
        spec(sampling=SamplingSpec(max_tokens=24)),
        out_dir=tmp_path,
        subject=_SUBJECT,
        encode=encoder(ModelPrompt(), policy, chat=False),
    )
    rows = read_samples([tmp_path])
    assert rows["confidence"].tolist() == [0.75 if grade == "correct" else 0.25 for grade in rows["grade"]]
    assert set(rows["grade"]) == {"correct", "wrong"}
    # each sample is 0.25 off, in the bin of its grade; the surer half is right where as many are
    assert summary.stated["ece"] == pytest.approx(0.25)
    assert summary.stated["brier"] == pytest.approx(0.0625)
    assert summary.stated["auroc"] == 1
    assert summary.stated["stated_fraction"] == 1
    assert summary.stated["weighted_maj_at_2"] >= summary.maj_at[2]
    assert json.loads((tmp_path / "eval.json").read_text())["summary"]["stated"] == summary.stated


def test_who_says_nothing_of_confidence_has_no_calibration(tmp_path: Path, policy: Policy) -> None:
    assert run(policy, tmp_path, engine=Counting(policy), spec=spec()).stated == {}
    assert read_samples([tmp_path])["confidence"].isna().all()


def test_without_an_answer_space_there_is_no_guess_floor(tmp_path: Path, policy: Policy) -> None:
    assert run(policy, tmp_path, engine=Counting(policy), spec=spec()).guess_floor == {}


def test_only_the_problems_that_are_asked_count(tmp_path: Path, policy: Policy) -> None:
    summary = run(policy, tmp_path, engine=Counting(policy), spec=spec(), indices=(0, 2))
    assert summary.problems == 2
    assert set(read_samples([tmp_path]).question_id) == {"q0", "q2"}


def test_errors_and_missing_answers_count_as_wrong_and_are_reported(tmp_path: Path, policy: Policy) -> None:
    errors = run(policy, tmp_path / "a", engine=Counting(policy, texts=("?",)), spec=spec())
    assert (errors.avg, errors.error_fraction, errors.no_answer_fraction) == (0.0, 1.0, 0.0)
    silent = run(policy, tmp_path / "b", engine=Counting(policy, texts=("9",)), spec=spec())
    assert (silent.avg, silent.error_fraction, silent.no_answer_fraction) == (0.0, 0.0, 1.0)
    assert set(read_samples([tmp_path / "a"]).grader_status) == {"timeout"}


def test_truncated_samples_are_set_apart(tmp_path: Path, policy: Policy) -> None:
    long = run(policy, tmp_path / "a", engine=Counting(policy, texts=("11111",)), spec=spec())
    assert (long.avg, long.truncated_fraction, long.avg_completed) == (0.0, 1.0, None)
    short = run(policy, tmp_path / "b", engine=Counting(policy, texts=("1",)), spec=spec())
    assert (short.avg, short.truncated_fraction, short.avg_completed) == (1.0, 0.0, 1.0)


def test_a_finished_evaluation_draws_nothing_again(tmp_path: Path, policy: Policy) -> None:
    first = run(policy, tmp_path, engine=Counting(policy), spec=spec())
    again = Counting(policy)
    assert run(policy, tmp_path, engine=again, spec=spec()) == first
    assert again.seeds == []


def test_an_interrupted_evaluation_continues_where_it_was(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensweep.evaluate.SHARD_SAMPLES", 5)
    whole = run(policy, tmp_path / "whole", engine=Counting(policy), spec=spec())
    cut, rest = Counting(policy, calls=2), Counting(policy)
    with pytest.raises(KeyboardInterrupt):
        run(policy, tmp_path / "cut", engine=cut, spec=spec())
    assert not (tmp_path / "cut" / "eval.json").exists()
    assert run(policy, tmp_path / "cut", engine=rest, spec=spec()) == whole
    assert (len(cut.seeds), len(rest.seeds)) == (10, 2)  # shards of 5, 5 and 2
    assert not set(cut.seeds) & set(rest.seeds)


def test_an_evaluation_that_is_asked_to_stop_keeps_its_shards(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensweep.evaluate.SHARD_SAMPLES", 5)
    first, rest, asked = Counting(policy), Counting(policy), iter((False, True))

    def between() -> None:
        if next(asked):
            raise InterruptedError("stop")

    with pytest.raises(InterruptedError, match="stop"):
        run(policy, tmp_path, engine=first, spec=spec(), between=between)
    run(policy, tmp_path, engine=rest, spec=spec())
    assert (len(first.seeds), len(rest.seeds)) == (5, 7)  # of 12 samples


def test_more_samples_are_added_to_those_that_are_there(tmp_path: Path, policy: Policy) -> None:
    few, more = Counting(policy), Counting(policy)
    run(policy, tmp_path / "grown", engine=few, spec=spec(num_samples=2))
    grown = run(policy, tmp_path / "grown", engine=more, spec=spec(num_samples=6))
    assert (len(few.seeds), len(more.seeds)) == (6, 12)
    assert len({*few.seeds, *more.seeds}) == 18
    assert grown == run(policy, tmp_path / "at_once", engine=Counting(policy), spec=spec(num_samples=6))
    assert sorted(read_samples([tmp_path / "grown"]).sample_idx.unique()) == list(range(6))


def test_fewer_samples_are_the_first_ones(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path / "large", engine=Counting(policy), spec=spec(num_samples=6))
    fewer = run(policy, tmp_path / "large", engine=Counting(policy), spec=spec(num_samples=2))
    assert fewer == run(policy, tmp_path / "small", engine=Counting(policy), spec=spec(num_samples=2))


def test_two_policies_are_compared_under_the_same_seeds(tmp_path: Path, policy: Policy) -> None:
    one, other = Counting(policy), Counting(policy)
    run(policy, tmp_path / "one", engine=one, spec=spec(step=20))
    run(policy, tmp_path / "other", engine=other, spec=spec(step=40, eval_id="e2"))
    assert one.seeds == other.seeds


def test_another_evaluation_seed_gives_other_samples(tmp_path: Path, policy: Policy) -> None:
    one, other = Counting(policy), Counting(policy)
    run(policy, tmp_path / "one", engine=one, spec=spec(seed=0))
    run(policy, tmp_path / "other", engine=other, spec=spec(seed=1))
    assert not set(one.seeds) & set(other.seeds)


def test_samples_of_another_decoding_are_refused(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path, engine=Counting(policy), spec=spec())
    with pytest.raises(ValueError, match="holds samples with decode_hash d1, this evaluation has d2"):
        run(policy, tmp_path, engine=Counting(policy), spec=spec(decode_hash="d2"))


def test_samples_of_other_problems_are_refused(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path, engine=Counting(policy), spec=spec())
    with pytest.raises(ValueError, match="holds samples with benchmark_revision r1"):
        run(policy, tmp_path, engine=Counting(policy), spec=spec(revision="r2"))


def test_pass_at_k_beyond_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@8 needs at least 8 samples per problem, got 4"):
        spec(num_samples=4, k=(1, 8))


def test_a_row_says_whose_sample_it_is(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path, engine=Counting(policy, texts=("1",)), spec=spec())
    row = read_samples([tmp_path]).iloc[0].to_dict()
    assert {key: row[key] for key in ("run_id", "config_hash", "seed", "step", "benchmark")} == {
        "run_id": "run",
        "config_hash": "abc",
        "seed": 7,
        "step": 20,
        "benchmark": "digits",
    }
    assert (row["question_id"], row["sample_idx"], row["text"], row["extracted"]) == ("q0", 0, "1", "1")
    assert (row["n_prompt_tokens"], row["n_output_tokens"], row["finish_reason"]) == (2, 2, "stop")


def test_eval_json_holds_the_summary(tmp_path: Path, policy: Policy) -> None:
    summary = run(policy, tmp_path, engine=Counting(policy), spec=spec(tau=(0.5,), answer_space=2))
    stored = json.loads((tmp_path / "eval.json").read_text())
    assert stored["summary"]["cover_at"] == {"0.5": summary.cover_at[0.5]}
    assert (stored["k"], stored["tau"], stored["answer_space"]) == ([1, 2], [0.5], 2)
    assert stored["summary"]["avg"] == summary.avg
    assert stored["summary"]["pass_at"] == {str(k): value for k, value in summary.pass_at.items()}
    assert (stored["eval_id"], stored["num_samples"]) == ("e1", 4)


def test_progress_counts_the_samples_that_were_there_before(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path, engine=Counting(policy), spec=spec(num_samples=2))
    heard: list[tuple[int, int]] = []
    run(
        policy,
        tmp_path,
        engine=Counting(policy),
        spec=replace(spec(), num_samples=4),
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard[-1] == (12, 12)
    assert heard[0][0] > 6


@dataclass(frozen=True)
class Lenient(Digits):
    """A later grader of the same problems that also takes "2"."""

    grader = "digits/2"

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        return super().grade(problem, text.replace("2", "1"), finish_reason)


def test_every_sample_is_drawn_by_the_rule_and_the_seed_does_not_depend_on_it(
    tmp_path: Path, policy: Policy
) -> None:
    asked: dict[str, list[Request]] = {}

    class Ruled(TorchEngine):
        def generate(self, requests: Sequence[Request], **options: Any) -> list[Rollout]:
            asked[name] = list(requests)
            return super().generate(requests, **options)

    engine, encode = Ruled(), encoder(ModelPrompt(), policy, chat=False)
    engine.load(policy, version=0)
    rules = pairs_of(TwoTemperatures(high=9.0))
    for name, given in (("none", spec()), ("two", spec(rules=rules))):
        out = tmp_path / name
        evaluate(policy, engine, Digits(), given, out_dir=out, subject=_SUBJECT, encode=encode)
    assert {request.rules for request in asked["two"]} == {rules}
    assert [replace(request, rules=()) for request in asked["two"]] == asked["none"]
    assert list(read_samples([tmp_path / "none"]).text) != list(read_samples([tmp_path / "two"]).text)


def test_the_reason_of_a_grader_error_stands_in_the_row(tmp_path: Path, policy: Policy) -> None:
    run(policy, tmp_path, engine=Counting(policy, texts=("1", "?")), spec=spec())
    rows = read_samples([tmp_path])
    assert set(rows.grader_status[rows.grade == "error"]) == {"timeout"}
    assert set(rows.grader_status[rows.grade != "error"]) == {"ok"}


def test_a_new_grader_reads_the_stored_texts_and_samples_nothing(tmp_path: Path, policy: Policy) -> None:
    strict = run(policy, tmp_path, engine=Counting(policy), spec=spec())
    idle = Counting(policy, calls=0)
    encode = encoder(ModelPrompt(), policy, chat=False)
    lenient = evaluate(policy, idle, Lenient(), spec(), out_dir=tmp_path, subject=_SUBJECT, encode=encode)
    assert strict.avg < 1
    assert lenient.avg == 1  # every answer is "1" or "2"
    assert set(read_samples([tmp_path]).grader) == {"digits/2"}


def test_regrading_needs_no_model_and_renews_the_summary(tmp_path: Path, policy: Policy) -> None:
    before = run(policy, tmp_path, engine=Counting(policy), spec=spec())
    entry = {
        "suite": "digits",
        "eval_id": "e1",
        "revision": "r1",
        "step": 20,
        "num_samples": 4,
        "k": [1, 2],
        "seed": 0,
    }
    entry["sampling"] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 4}
    changed = regrade_entry(tmp_path, Lenient(), entry, engine={})
    assert changed == round((1 - before.avg) * 12)
    assert json.loads((tmp_path / "eval.json").read_text())["summary"]["avg"] == 1
    assert regrade_entry(tmp_path, Lenient(), entry, engine={}) == 0


@dataclass(frozen=True)
class Thoughtful(Digits):
    """Only what follows a thought is an answer."""

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        return super().grade(problem, after_thinking(text), finish_reason)


def test_a_stored_text_begins_with_the_thought_of_its_prompt_and_is_graded_again_within_it(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = policy.decode
    monkeypatch.setattr(policy, "decode", lambda ids: decode(ids).replace("=", "=<think>"))  # of a prompt
    encode = encoder(ModelPrompt(), policy, chat=False)
    engine = Counting(policy, texts=("1",))
    done = evaluate(policy, engine, Thoughtful(), spec(), out_dir=tmp_path, subject=_SUBJECT, encode=encode)
    assert (done.avg, done.no_answer_fraction) == (0.0, 1.0)
    assert set(read_samples([tmp_path]).text) == {"<think>1"}
    assert regrade_stored(tmp_path, Thoughtful(), always=True) == 0
