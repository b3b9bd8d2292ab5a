"""maj@k is the share of k-subsets whose most frequent answer is right."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokensweep_analysis.majority import Votes, VoteTable, count_votes, maj_at_k, majority_at_k


def _by_enumeration(votes: Votes, k: int) -> Fraction:
    """The definition itself: every subset, its most frequent answers, the share of the right one in them."""
    samples = ["right"] * votes.num_correct + ["silent"] * votes.num_silent
    samples += [f"wrong {answer}" for answer, count in enumerate(votes.wrong) for _ in range(count)]
    total, draws = Fraction(0), 0
    for draw in combinations(samples, k):
        counts = Counter(answer for answer in draw if answer != "silent")
        leaders = [answer for answer, count in counts.items() if count == max(counts.values())]
        total += Fraction("right" in leaders, max(1, len(leaders)))
        draws += 1
    return total / draws


def _questions(*, number: int, samples: int, answers: int, seed: int) -> list[Votes]:
    """Random questions whose correct samples are anything from none to all."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(number):
        labels = rng.choices(range(-1, answers), [rng.random() ** 3 for _ in range(answers + 1)], k=samples)
        counts = Counter(labels)
        right, silent = counts.pop(0, 0), counts.pop(-1, 0)
        drawn.append(Votes(num_correct=right, wrong=tuple(counts.values()), num_silent=silent))
    return drawn


@pytest.mark.parametrize("samples", [1, 2, 5, 9])
def test_maj_at_k_is_the_share_of_subsets_that_the_right_answer_wins(samples: int) -> None:
    for votes in _questions(number=20, samples=samples, answers=5, seed=samples):
        for k in range(1, samples + 1):
            assert maj_at_k(votes, k) == pytest.approx(float(_by_enumeration(votes, k)), abs=1e-12)


def test_a_tie_is_split_among_the_answers_that_tie() -> None:
    # Right, A and B once each; every draw of 2 or 3 is a tie of all that are in it.
    votes = Votes(num_correct=1, wrong=(1, 1))
    assert maj_at_k(votes, 3) == pytest.approx(1 / 3)
    # Draws of 2: right-A and right-B count 1/2 each, A-B counts 0.
    assert maj_at_k(votes, 2) == pytest.approx((1 / 2 + 1 / 2) / 3)


def test_wrong_samples_that_agree_beat_as_many_right_ones_that_do_not_exist() -> None:
    # All 5 drawn: 2 right against 3 that say A, or against 3 that say three things.
    assert maj_at_k(Votes(num_correct=2, wrong=(3,)), 5) == 0.0
    assert maj_at_k(Votes(num_correct=2, wrong=(1, 1, 1)), 5) == pytest.approx(1.0)


def test_samples_without_an_answer_do_not_vote() -> None:
    # One right sample wins against any number of silent ones, in every draw that holds it: k / n.
    assert maj_at_k(Votes(num_correct=1, num_silent=7), 8) == pytest.approx(1.0)
    assert maj_at_k(Votes(num_correct=1, num_silent=7), 2) == pytest.approx(2 / 8)


def test_a_draw_of_only_silent_samples_is_not_right() -> None:
    assert maj_at_k(Votes(num_correct=0, num_silent=4), 3) == 0.0


def test_maj_at_one_is_the_mean_accuracy() -> None:
    assert maj_at_k(Votes(num_correct=5, wrong=(9, 2), num_silent=4), 1) == pytest.approx(5 / 20)


def test_maj_at_k_stays_exact_where_binomials_overflow() -> None:
    # C(2000, 1000) is about 10^600. Against one wrong answer with as many samples, every draw has its mirror.
    assert maj_at_k(Votes(num_correct=1000, wrong=(1000,)), 1000) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("samples", [4, 7, 10])
def test_many_questions_at_once_give_what_each_gives_by_enumeration(samples: int) -> None:
    questions = _questions(number=60, samples=samples, answers=samples, seed=100 + samples)
    questions += [  # the corners: nobody answers, all are right, only ties, several ties of several sizes
        Votes(num_correct=0, num_silent=samples),
        Votes(num_correct=samples),
        Votes(num_correct=1, wrong=(1,) * (samples - 1)),
        Votes(num_correct=0, wrong=(samples,)),
        Votes(num_correct=1, wrong=(1,) * (samples - 2), num_silent=1),
    ]
    table = VoteTable.of(questions)
    for k in range(1, samples + 1):
        expected = [float(_by_enumeration(votes, k)) for votes in questions]
        assert majority_at_k(table, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("answers", "votes"), [(4, 16), (16, 4), (64, 1), (2, 32)])
def test_answers_with_equally_many_votes_win_equally_often(answers: int, votes: int) -> None:
    # Nobody is silent, so somebody wins every draw; by symmetry each of the answers in one of `answers`.
    table = VoteTable.of([Votes(num_correct=votes, wrong=(votes,) * (answers - 1))])
    for k in range(1, 65):
        assert majority_at_k(table, k) == pytest.approx([1 / answers], abs=1e-12)


def test_the_chances_of_all_answers_and_of_nobody_add_up_to_one() -> None:
    # 20 + 17 + 17 + 6 + 3 + 1 = 64: each answer in turn is called the right one.
    sizes = [20, 17, 17, 6, 3, 1]
    questions = [
        Votes(num_correct=size, wrong=tuple(sizes[:i] + sizes[i + 1 :])) for i, size in enumerate(sizes)
    ]
    for k in (2, 8, 33, 63, 64):
        assert majority_at_k(VoteTable.of(questions), k).sum() == pytest.approx(1.0, abs=1e-12)


def test_votes_are_counted_from_which_samples_are_right_and_what_the_others_say() -> None:
    correct = np.array([[True, False, False, False], [False, False, False, False]])
    answers = np.array([[5, 3, 3, -1], [-1, 0, 9, 0]])
    table = VoteTable.count(correct, answers)
    assert list(table) == [
        Votes(num_correct=1, wrong=(2,), num_silent=1),
        Votes(num_correct=0, wrong=(2, 1), num_silent=1),
    ]
    assert list(VoteTable.join([table, VoteTable.count(correct[:1], answers[:1])])) == [
        *table,
        next(iter(table)),
    ]


def test_a_table_of_no_questions_has_no_scores() -> None:
    empty = VoteTable.count(np.zeros((0, 4), dtype=np.bool_), np.zeros((0, 4), dtype=np.int64))
    assert [len(majority_at_k(empty, k)) for k in (1, 2, 4)] == [0, 0, 0]


def test_questions_with_unequally_many_samples_are_no_table() -> None:
    with pytest.raises(ValueError, match=r"needs one number of samples, got \[3, 4\]"):
        VoteTable.of([Votes(num_correct=3), Votes(num_correct=4)])


@pytest.mark.parametrize("k", [0, 9])
def test_k_outside_of_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"maj@k needs 1 <= k <= samples, got k={k} and 8 samples"):
        maj_at_k(Votes(num_correct=5, wrong=(3,)), k)


@pytest.mark.slow
def test_a_benchmark_of_500_questions_with_64_samples_takes_seconds() -> None:
    questions = _questions(number=500, samples=64, answers=12, seed=0)
    start = time.process_time()
    for k in (8, 64):
        assert 0 < sum(maj_at_k(votes, k) for votes in questions) < 500
    assert time.process_time() - start < 20  # about 1 s on an idle core


def test_correct_samples_are_one_answer_and_wrong_ones_go_by_their_normalised_text(
    make_row: Callable[..., dict[str, Any]],
) -> None:
    said = [
        ("correct", r"\frac{1}{2}"),
        ("correct", "0.5"),  # however it is written
        ("wrong", "1,234"),
        ("wrong", "1234.0"),
        ("error", "1234"),  # the grader failed, the answer is there
        ("wrong", "7"),
        ("no_answer", None),
        ("truncated", None),
    ]
    rows = [
        make_row(question_id="q1", grade=grade, extracted=text, sample_idx=i)
        for i, (grade, text) in enumerate(said)
    ]
    votes = count_votes(pd.DataFrame([*rows, make_row(question_id="q0")]))
    assert votes == {
        "q0": Votes(num_correct=1),
        "q1": Votes(num_correct=2, wrong=(3, 1), num_silent=2),
    }
    assert votes["q1"].num_samples == 8
