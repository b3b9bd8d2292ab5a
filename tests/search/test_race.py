"""Evaluations are given up when their questions say so, and hardly ever otherwise."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tokensweep.search.race import Race, is_behind


def scores(*values: float) -> dict[str, float]:
    return {f"q{place:03d}": value for place, value in enumerate(values)}


def test_the_threshold_is_that_of_a_one_sided_signed_rank_test() -> None:
    # 8 questions, all worse by distinct amounts: P(W = 0) = 1 / 2^8 = 0.0039 without ties.
    best = scores(*(0.9 for _ in range(8)))
    own = scores(*(0.9 - 0.05 * (place + 1) for place in range(8)))
    assert is_behind(own, best, threshold=0.0040)
    assert not is_behind(own, best, threshold=0.0039)


def test_who_is_ahead_or_equal_is_never_given_up() -> None:
    best = scores(*(0.5 for _ in range(40)))
    assert not is_behind(best, best, threshold=0.49)
    assert not is_behind(scores(*(0.9 for _ in range(40))), best, threshold=0.49)


def test_too_few_questions_say_nothing() -> None:
    assert not is_behind(scores(*[0.0] * 7), scores(*[1.0] * 7), threshold=0.49)
    assert is_behind(scores(*[0.0] * 8), scores(*[1.0] * 8), threshold=0.49)


class _Evaluation:
    """A race whose run folders are dictionaries of scores that grow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, questions: int, samples: int) -> None:
        self.told: dict[str, dict[str, float]] = {"own": {}, "best": {}}
        entries = [{"num_questions": questions, "num_samples": samples}]
        monkeypatch.setattr("tokensweep.search.race.read_json", lambda _: {"evals": entries})
        monkeypatch.setattr("tokensweep.search.race._scores", lambda run_dir, _: self.told[run_dir.name])


def test_an_equally_good_trial_is_given_up_no_more_often_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    # 128 questions x 16 samples are 4 shards of 512, so 3 looks, at 32, 64 and 96 questions.
    made, drawn, given_up = _Evaluation(monkeypatch, questions=128, samples=16), random.Random(7), 0
    for _ in range(400):
        chances = [drawn.random() for _ in range(128)]
        best, own = (
            scores(*(sum(drawn.random() < chance for _ in range(16)) / 16 for chance in chances))
            for _ in range(2)
        )
        made.told["best"] = best
        race = Race(Path("own"), best=Path("best"), chance=0.1, shard=512)
        for known in (32, 64, 96, 128):
            made.told["own"] = dict(list(own.items())[:known])
            if race.look():
                given_up += 1
                break
    assert given_up <= 400 * 0.1 + 2 * (400 * 0.1 * 0.9) ** 0.5  # two standard errors above the stated chance
    assert given_up >= 4  # it does look


def test_a_hopeless_trial_is_given_up_at_the_first_look_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Evaluation(monkeypatch, questions=128, samples=16)
    made.told["best"] = scores(*[0.8] * 128)
    race = Race(Path("own"), best=Path("best"), chance=0.06, shard=512)
    assert race.look() == ""  # nothing is there yet
    made.told["own"] = scores(*[0.2] * 32)
    assert race.look() == (
        "behind the best trial on 32 of 128 questions (Wilcoxon, p < 0.02, one of 3 looks)"  # 0.06 / 3
    )


def test_no_look_is_taken_where_one_shard_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Evaluation(monkeypatch, questions=30, samples=16)  # 480 samples
    made.told = {"best": scores(*[0.8] * 30), "own": scores(*[0.2] * 20)}
    assert Race(Path("own"), best=Path("best"), chance=0.1, shard=512).look() == ""


def test_the_first_trials_race_nobody() -> None:
    assert Race(Path("own"), best=None, chance=0.1, shard=512).look() == ""
