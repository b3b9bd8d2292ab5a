"""The noise of trials comes from the samples of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.search.made import ACCURACY, TOKENS, a_study, a_trial

from tokensweep_analysis.search.evidence import Evidence, evidence_of
from tokensweep_analysis.search.shrinkage import question_noise
from tokensweep_analysis.tables import Row

_SCORES = np.array([[1.0, 0.5, 0.0, 0.5], [1, 0.75, 0.25, 0.5], [0.5, 0.5, 0, 0], [1, 1, 0.25, 0.75]])


def _row(arm: str, scores: Sequence[float], *, benchmark: str = "ops", **by_seed: float) -> Row:
    return Row(
        setting="",
        arm=arm,
        benchmark=benchmark,
        num_planned=1,
        num_failed=0,
        by_question={f"q{place}": float(score) for place, score in enumerate(scores)},
        by_run={int(s[1:]): (v, 5.0) for s, v in by_seed.items()} or {0: (float(np.mean(scores)), 5.0)},
    )


def _evidence(tmp_path: Path, rows: Sequence[Row], **changes: Any) -> Evidence:
    trials = [a_trial(number, float(scores.mean())) for number, scores in enumerate(_SCORES)]
    return evidence_of(a_study(tmp_path, changes.pop("trials", trials), **changes), rows)


def test_one_seed_gives_the_noise_of_questions_and_says_so(tmp_path: Path) -> None:
    found = _evidence(tmp_path, [_row(f"trial-{n:03d}", scores) for n, scores in enumerate(_SCORES)])
    assert found.is_one_seed
    assert list(found.noise) == [0, 1, 2, 3]
    assert np.square(list(found.noise.values())) == pytest.approx(question_noise(_SCORES))
    assert (found.reason, found.left_out, found.graded_again) == ("", (), ())


def test_two_seeds_add_the_luck_of_training(tmp_path: Path) -> None:
    rows = [_row(f"trial-{n:03d}", s, s0=s.mean() - 0.1, s1=s.mean() + 0.1) for n, s in enumerate(_SCORES)]
    found = _evidence(tmp_path, rows)
    assert not found.is_one_seed
    # Between two seeds 0.2 apart the variance is 0.02; the mean of two has half of it.
    assert np.square(list(found.noise.values())) == pytest.approx(question_noise(_SCORES) + 0.01)


def test_questions_of_all_benchmarks_weigh_the_same(tmp_path: Path) -> None:
    rows = []
    for number, scores in enumerate(_SCORES):
        arm = f"trial-{number:03d}"
        rows += [_row(arm, scores[:1], s0=scores[0] - 0.1, s1=scores[0] + 0.1)]
        rows += [_row(arm, scores[1:], benchmark="sums", s0=scores[1:].mean(), s1=scores[1:].mean())]
    found = _evidence(tmp_path, rows)
    # Seeds differ by 0.2 in one question of four: by 0.05 in all; variance 0.00125, of two seeds 0.000625.
    assert np.square(list(found.noise.values())) == pytest.approx(question_noise(_SCORES) + 0.000625)
    assert not found.graded_again


def test_a_trial_without_scores_of_the_same_questions_is_left_out_and_named(tmp_path: Path) -> None:
    rows = [_row(f"trial-{n:03d}", scores) for n, scores in enumerate(_SCORES)]
    trials = [a_trial(n, float(s.mean())) for n, s in enumerate(_SCORES)]
    trials += [a_trial(4, 0.5), a_trial(5, 0.5)]
    found = _evidence(tmp_path, [*rows, _row("trial-004", [0.5] * 3)], trials=trials)
    assert found.left_out == ("trial-004", "trial-005")
    assert list(found.values) == [0, 1, 2, 3]


def test_a_told_value_that_samples_do_not_give_is_named(tmp_path: Path) -> None:
    rows = [_row(f"trial-{n:03d}", scores) for n, scores in enumerate(_SCORES)]
    trials = [a_trial(n, float(s.mean()) + 0.25 * (n == 2)) for n, s in enumerate(_SCORES)]
    assert _evidence(tmp_path, rows, trials=trials).graded_again == ("trial-002",)


def test_it_is_said_why_nothing_is_shrunk(tmp_path: Path) -> None:
    rows = [_row(f"trial-{n:03d}", scores) for n, scores in enumerate(_SCORES)]
    assert "got 3; without scores of the same questions: trial-003" in _evidence(tmp_path, rows[:3]).reason
    one = [_row(f"trial-{n:03d}", scores[:1]) for n, scores in enumerate(_SCORES)]
    assert "one question" in _evidence(tmp_path, one).reason
    assert "accuracy is no objective" in _evidence(tmp_path, rows, objectives=[TOKENS]).reason


def test_accuracy_may_be_the_second_objective(tmp_path: Path) -> None:
    rows = [_row(f"trial-{n:03d}", scores) for n, scores in enumerate(_SCORES)]
    trials = [a_trial(n, (100.0, float(s.mean()))) for n, s in enumerate(_SCORES)]
    found = _evidence(tmp_path, rows, trials=trials, objectives=[TOKENS, ACCURACY])
    assert found.shrunk is not None
    assert found.shrunk.mean == pytest.approx(_SCORES.mean())
