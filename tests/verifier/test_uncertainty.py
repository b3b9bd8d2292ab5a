"""What a completion says of its own certainty."""

from __future__ import annotations

import pytest

from tokensweep.verifier import confidence_statement, count_markers, stated_confidence, without_statements


@pytest.mark.parametrize(
    "text",
    [
        "Confidence: 0.85",
        "confidence = .85",
        "CONFIDENCE:0.85",
        r"\boxed{7}. **Confidence:** 85 %",
        r"Confidence: 85\%",
        "Confidence: 17/20.",
        "Confidence: $8.5e-1$",
        "Confidence: 0.1, no:\nConfidence: 0.85",
        "<think>Confidence: 0.2</think> 7, Confidence: 0.85",
    ],
)
def test_decimals_fractions_and_percent_agree(text: str) -> None:
    assert stated_confidence(text) == pytest.approx(0.85)


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "Confidence: high",
        "Overconfidence: 0.3",
        "Confidence: 3/0",
        "Confidence: 0.8.5",
        "Confidence: 2x",
        "I have confidence in 7",
        "<think>Confidence: 0.2",
    ],
)
def test_what_is_no_number_is_no_statement(text: str) -> None:
    assert stated_confidence(text) is None


@pytest.mark.parametrize(("said", "value"), [("1.2", 1), ("-0.3", 0), ("250 %", 1), ("85", 1), ("0", 0)])
def test_a_confidence_is_clipped_to_a_probability(said: str, value: float) -> None:
    assert stated_confidence(f"Confidence: {said}") == value


@pytest.mark.parametrize("said", ["1/3", "0.1", "12.5%", "1e-7", "7", "-2", "99.99 %"])
def test_reading_what_was_read_changes_nothing(said: str) -> None:
    once = stated_confidence(f"Confidence: {said}")
    assert once is not None
    assert stated_confidence(confidence_statement(once)) == once


def test_markers_are_counted_wherever_they_stand() -> None:
    assert count_markers("<think>3 <uncertain></think> 7<UNCERTAIN>") == 2
    assert count_markers("uncertain") == 0


def test_without_its_statements_a_text_is_what_it_answers() -> None:
    assert without_statements("3+4=7<UNCERTAIN>;CONFIDENCE:0.7") == "3+4=7;"


def test_a_megabyte_of_almost_statements_is_read_at_once() -> None:
    assert stated_confidence("confidence : " * 80_000) is None
