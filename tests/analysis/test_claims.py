"""Claims of a sweep file are checked where they enter, by name and key."""

from __future__ import annotations

from typing import Any

import pytest

from tokensweep_analysis.claims import Claim, ClaimKind, arms_named, parse_claims, parse_measure
from tokensweep_analysis.metrics import Kind, Metric

ARMS = ("all", "top20")


def _entry(**changes: Any) -> dict[str, Any]:
    entry = {
        "id": "c",
        "kind": "superiority",
        "contrast": "top20 - all",
        "metric": "aime24/pass_at_8",
        **changes,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _claim(**changes: Any) -> Claim:
    return parse_claims([_entry(**changes)], arms=ARMS)[0]


def test_a_claim_names_its_arms_benchmark_and_metric() -> None:
    claim = _claim(claimed=0.0771, source="Table 2")
    assert (claim.left, claim.right, claim.benchmark) == ("top20", "all", "aime24")
    assert claim.metric == Metric(Kind.pass_at, 8)
    assert (claim.measure, claim.contrast) == ("aime24/pass_at_8", "top20 - all")


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("pooled/avg", Metric(Kind.pass_at, 1)),
        ("pooled/pass_at_1", Metric(Kind.pass_at, 1)),  # another spelling of the same
        ("pooled/maj_at_16", Metric(Kind.maj_at, 16)),
        ("pooled/pass_hat_4", Metric(Kind.pass_hat, 4)),
        ("pooled/cover_at_0.9", Metric(Kind.cover_at, 0.9)),
    ],
)
def test_a_measure_is_a_benchmark_and_a_metric(text: str, metric: Metric) -> None:
    assert parse_measure(text) == ("pooled", metric)


@pytest.mark.parametrize(
    "text",
    [
        *("avg", "pooled/acc", "pooled/pass_at_0", "pooled/pass_at_1.5", "pooled/cover_at_2", 3),
        *("pooled/pass_at_inf", "pooled/maj_at_1e400", "pooled/pass_at_nan", "pooled/cover_at_nan"),
    ],
)
def test_other_measures_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="metric must be BENCHMARK/METRIC"):
        parse_measure(text)


def test_the_smallest_effect_is_a_quarter_of_the_claim_but_a_point_at_least() -> None:
    assert _claim(claimed=0.08).smallest_effect == pytest.approx(0.02)
    assert _claim(claimed=0.02).smallest_effect == pytest.approx(0.01)
    assert _claim().smallest_effect == pytest.approx(0.01)
    assert _claim(kind="equivalence", margin=0.03).smallest_effect == 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "better"},
            "kind must be one of superiority, non_inferiority, equivalence, at_least",
        ),
        ({"contrast": "top20 - rest"}, "two different arms of all, top20"),
        ({"contrast": "all - all"}, "two different arms"),
        ({"claim": 0.1}, "unknown keys claim: known are"),
        ({"kind": "equivalence"}, r"equivalence needs a margin, for example margin: 0\.02"),
        ({"margin": 0.02}, "superiority has no margin"),
        ({"kind": "at_least", "margin": -0.02}, "margin must be positive"),
        ({"claimed": 7.71}, "claimed must be a share between -1 and 1"),
        ({"claimed": True}, "claimed must be a share"),
        ({"claimed": float("nan")}, "claimed must be a share between -1 and 1 .* got nan"),
        ({"kind": "at_least", "margin": float("inf")}, "margin must be a share between -1 and 1 .* got inf"),
        (
            {"claimed": -0.02},
            r"claimed must be the difference left - right that the claim says is positive, got -0\.02: swap",
        ),
        ({"kind": "at_least", "margin": 0.01, "claimed": -0.02}, r"is positive, got -0\.02: swap the arms"),
        ({"claimed": 0}, r"is positive, got 0: leave claimed out"),
        ({"parts": ["a", "b"]}, "superiority has no parts: take them out, or choose kind: all_of"),
        ({"source": ["Table 2"]}, r"source must be text, got \['Table 2'\]"),
        ({"setting": {}}, r"setting must be text, got \{\}"),
    ],
)
def test_a_bad_claim_is_refused_with_its_id(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.yaml: claims: c: .*{message}"):
        parse_claims([_entry(**changes)], arms=ARMS, where="mine.yaml: claims")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": None}, "parts must list the ids of two or more different claims, got None"),
        ({"parts": ["a"]}, "parts must list the ids of two"),
        ({"parts": "a, b"}, "parts must list the ids of two .* got 'a, b'"),
        ({"parts": ["a", "a"]}, r"parts must list the ids of two or more different claims, got \['a', 'a'\]"),
        ({"margin": 0.02}, "all_of has no margin: take it out, its parts say that"),
        (
            {"metric": "pooled/avg", "contrast": "top20 - all", "claimed": 0.1},
            "all_of has no metric, contrast, claimed: take them out",
        ),
    ],
)
def test_a_claim_of_parts_has_nothing_else(changes: dict[str, Any], message: str) -> None:
    both = {"id": "both", "kind": "all_of", "parts": ["a", "b"], **changes}
    with pytest.raises(ValueError, match=f"claims: both: {message}"):
        parse_claims([_entry(id="a"), _entry(id="b"), both], arms=ARMS)


def test_a_difference_that_is_no_win_may_be_claimed_of_an_arm_that_only_does_not_lose() -> None:
    assert _claim(kind="non_inferiority", margin=0.02, claimed=-0.005).claimed == -0.005
    assert _claim(kind="equivalence", margin=0.02, claimed=0).claimed == 0


@pytest.mark.parametrize("given", [{"id": "c", "kind": "superiority"}, "wins", 3])
def test_claims_are_a_list(given: Any) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml: claims must be a list with a mapping per claim"):
        parse_claims(given, arms=ARMS, where="mine.yaml: claims")


@pytest.mark.parametrize("wrong", ["top20 - all", None, {"id": ["c"]}])
def test_an_entry_that_is_no_claim_is_shown(wrong: Any) -> None:
    assert arms_named([wrong, _entry()]) >= set(ARMS)
    with pytest.raises(ValueError, match="claims: every claim must be a mapping with an id"):
        parse_claims([wrong], arms=ARMS)


def test_a_name_of_digits_may_be_written_as_a_number() -> None:
    claim = _claim(id=1, setting=0, source=2)
    assert (claim.id, claim.setting, claim.source) == ("1", "0", "2")


def test_a_claim_without_id_or_with_another_s_id_is_refused() -> None:
    with pytest.raises(ValueError, match="every claim must be a mapping with an id"):
        parse_claims([_entry(id=None)], arms=ARMS)
    with pytest.raises(ValueError, match="another claim has this id"):
        parse_claims([_entry(), _entry()], arms=ARMS)


def test_parts_are_about_the_setting_of_their_claim() -> None:
    claims = [_entry(id="a", setting="ops"), _entry(id="b")]
    both = {"id": "both", "kind": "all_of", "parts": ["a", "b"]}
    with pytest.raises(ValueError, match=r"both: parts must be about the setting of the claim, .* got ops"):
        parse_claims([*claims, both], arms=ARMS)
    assert parse_claims([*claims, {**both, "setting": "ops"}], arms=ARMS)[2].setting == "ops"


def test_parts_are_claims_of_the_same_file() -> None:
    both = {"id": "both", "kind": "all_of", "parts": ["c", "d"]}
    with pytest.raises(ValueError, match="parts must be other claims of the file, got d: choose from c"):
        parse_claims([_entry(), both], arms=ARMS)
    claims = parse_claims([_entry(), _entry(id="d"), both], arms=ARMS)
    assert claims[2].kind is ClaimKind.all_of
    assert claims[2].contrast == "c and d"
