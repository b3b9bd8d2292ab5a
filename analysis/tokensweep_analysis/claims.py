"""What a sweep file claims, and what was decided about it. For the plan, the report, the pages and MLflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tokensweep_analysis.metrics import AVERAGE, CERTAINTY, Kind, Metric

if TYPE_CHECKING:
    from tokensweep_analysis.intervals import Estimate

POOLED = "pooled"  # the benchmark that is the mean over all of a setting, each weighing the same

_KEYS = frozenset(
    {"id", "kind", "contrast", "metric", "source", "margin", "claimed", "setting", "parts", "model", "data"}
)
_TEXTS = ("source", "setting", "model", "data")
_ALL_OF_KEYS = frozenset({"id", "kind", "parts", *_TEXTS})
_METRICS = (
    "avg, pass_at_K, maj_at_K, pass_hat_K, cover_at_TAU, "
    "or where samples state a confidence weighted_maj_at_K, " + ", ".join(kind.name for kind in CERTAINTY)
)
_LEAST_EFFECT = 0.01  # one point: what a change of method should bring at least to be worth its trouble


class ClaimKind(StrEnum):
    """What is claimed of ``left - right``."""

    superiority = "superiority"  # above 0
    non_inferiority = "non_inferiority"  # above -margin
    equivalence = "equivalence"  # between -margin and margin
    at_least = "at_least"  # above margin
    all_of = "all_of"  # each of several claims of the file


_NEED_MARGIN = frozenset({ClaimKind.non_inferiority, ClaimKind.equivalence, ClaimKind.at_least})
_WINS = frozenset({ClaimKind.superiority, ClaimKind.at_least})  # left - right is claimed to be positive


class Verdict(StrEnum):
    """What the runs say of a claim."""

    reproduced = "reproduced"
    refuted = "refuted"
    inconclusive = "inconclusive"
    not_comparable = "not comparable"
    not_run = "not run"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a sweep file; differences are shares, so 0.01 is one point, and nats for NLL.

    It is about ``left - right``. Of what is better small, such as ECE, the better arm stands on the right.
    """

    id: str
    kind: ClaimKind
    left: str = ""  # arm that is claimed to win, or not to lose
    right: str = ""  # arm that it is compared with
    benchmark: str = ""  # or POOLED
    metric: Metric | None = None  # None for all_of
    margin: float | None = None
    claimed: float | None = None  # the difference that was printed, None for curves only
    parts: tuple[str, ...] = ()  # ids, for all_of
    setting: str = ""  # the only setting that it is about; empty: each one
    source: str = ""
    model: str = ""  # what the claim is about; empty for the sweep's own claims
    data: str = ""

    @property
    def contrast(self) -> str:
        """The two arms as the file writes them, or the claims that this one consists of."""
        return f"{self.left} - {self.right}" if self.left else " and ".join(self.parts)

    @property
    def measure(self) -> str:
        """Benchmark and metric: ``pooled/avg``, ``aime24/pass_at_256``."""
        if self.metric is None:
            return ""
        return f"{self.benchmark}/{'avg' if self.metric == AVERAGE else self.metric.key}"

    @property
    def smallest_effect(self) -> float:
        """delta0: the margin, else a quarter of the claimed difference and at least one point."""
        if self.margin is not None:
            return self.margin
        return max(_LEAST_EFFECT, abs(self.claimed or 0.0) / 4)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim in one setting, with the rule that decided and what it saw."""

    claim: Claim
    setting: str
    verdict: Verdict
    grade: str = ""  # of a reproduced superiority: size consistent | smaller | larger
    rule: str = ""  # for example "lower end of the 95 % interval above 0"
    reason: str = ""  # a sentence with the figures, or the guard that forced the verdict
    estimate: Estimate | None = None  # left minus right, with the interval that the verdict is read off
    # The same with the intervals that being reproduced and being refuted are read off, where a rule decided:
    # 95 % and 90 % or the reverse, widened by Holm.
    reproduce: Estimate | None = None
    refute: Estimate | None = None
    holm_over: int | None = None  # claims of the family that were tested
    p_value: float | None = None  # of being refuted where it is, of being reproduced elsewhere
    p_holm: float | None = None  # over the claims of the family
    detectable: float | None = None
    smallest_effect: float | None = None  # delta0: the smallest difference worth having
    p_above_0: float | None = None  # posterior under a sceptical prior
    p_above_smallest: float | None = None  # none for a margin that is a tolerance


def arms_named(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The arms in the contrasts of claims: a scale may leave some out that the file has been checked for."""
    contrasts = [str(entry.get("contrast", "")) for entry in entries if isinstance(entry, Mapping)]
    return {side.strip() for contrast in contrasts for side in contrast.split(" - ")}


def claim_entries(given: Any, *, where: str) -> list[Any]:
    """The entries of a list of claims. Raises ValueError that names ``where`` for anything but a list."""
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{where} must be a list with a mapping per claim, got {given!r}: put - before each")
    return list(given)


def parse_claims(
    entries: Sequence[Mapping[str, Any]], *, arms: Collection[str], where: str = "claims"
) -> tuple[Claim, ...]:
    """The claims of a sweep file, checked. Raises ValueError that names ``where``, the claim and its key."""
    claims: list[Claim] = []
    for entry in claim_entries(entries, where=where):
        if not isinstance(entry, Mapping) or not _is_text(entry.get("id")):
            raise ValueError(f"{where}: every claim must be a mapping with an id, got {entry!r}")
        place = f"{where}: {entry['id']}"
        try:
            claims.append(_parse(entry, arms))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if len({claim.id for claim in claims}) < len(claims):
            raise ValueError(f"{place}: another claim has this id: give each one its own")
    simple = {claim.id: claim for claim in claims if claim.kind is not ClaimKind.all_of}
    for claim in claims:
        if missing := [part for part in claim.parts if part not in simple]:
            raise ValueError(
                f"{where}: {claim.id}: parts must be other claims of the file, got {', '.join(missing)}: "
                f"choose from {', '.join(sorted(simple)) or 'none'}"
            )
        if others := sorted({simple[part].setting for part in claim.parts} - {"", claim.setting}):
            raise ValueError(
                f"{where}: {claim.id}: parts must be about the setting of the claim, "
                f"{claim.setting or 'which is every one'}, got {', '.join(others)}: give all the same"
            )
    return tuple(claims)


def _parse(entry: Mapping[str, Any], arms: Collection[str]) -> Claim:
    if unknown := sorted(set(map(str, entry)) - _KEYS):
        raise ValueError(f"unknown keys {', '.join(unknown)}: known are {', '.join(sorted(_KEYS))}")
    kind = _kind(entry.get("kind"))
    texts: dict[str, Any] = {key: _text(entry, key) for key in _TEXTS}
    if kind is ClaimKind.all_of:
        return Claim(id=str(entry["id"]), kind=kind, parts=_parts(entry), **texts)
    if "parts" in entry:
        raise ValueError(f"{kind} has no parts: take them out, or choose kind: {ClaimKind.all_of}")
    left, right = _arms(entry.get("contrast"), arms)
    benchmark, metric = parse_measure(entry.get("metric"))
    margin, claimed = _number(entry, "margin"), _number(entry, "claimed")
    if (margin is not None) != (kind in _NEED_MARGIN):
        raise ValueError(
            f"{kind} needs a margin, for example margin: 0.02 (two points)"
            if margin is None
            else f"{kind} has no margin: take it out, or choose {', '.join(sorted(_NEED_MARGIN))}"
        )
    if margin is not None and margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    if claimed is not None and claimed <= 0 and kind in _WINS:
        raise ValueError(
            f"claimed must be the difference left - right that the claim says is positive, got {claimed:g}: "
            + ("swap the arms" if claimed < 0 else "leave claimed out where no size was printed")
        )
    return Claim(
        id=str(entry["id"]),
        kind=kind,
        left=left,
        right=right,
        benchmark=benchmark,
        metric=metric,
        margin=margin,
        claimed=claimed,
        **texts,
    )


def _kind(given: Any) -> ClaimKind:
    try:
        return ClaimKind(given)
    except ValueError:
        raise ValueError(f"kind must be one of {', '.join(ClaimKind)}, got {given!r}") from None


def _parts(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids that a claim consists of: what is said of them stands there."""
    if odd := [str(key) for key in entry if key not in _ALL_OF_KEYS]:
        them = "them" if len(odd) > 1 else "it"
        raise ValueError(f"{ClaimKind.all_of} has no {', '.join(odd)}: take {them} out, its parts say that")
    parts = entry.get("parts")
    if not isinstance(parts, list) or len(set(map(str, parts))) < max(2, len(parts)):
        raise ValueError(f"parts must list the ids of two or more different claims, got {parts!r}")
    return tuple(map(str, parts))


def _text(entry: Mapping[str, Any], key: str) -> str:
    """What stands under the key; empty where nothing does."""
    given = entry.get(key)
    if given is None or given == "" or _is_text(given):
        return "" if given is None else str(given)
    raise ValueError(f"{key} must be text, got {given!r}: put it in quotes")


def _is_text(given: Any) -> bool:
    """Whether it is a name, which YAML reads as a number when it has digits only."""
    return not isinstance(given, bool) and isinstance(given, (str, int, float)) and bool(str(given))


def _arms(contrast: Any, arms: Collection[str]) -> tuple[str, str]:
    sides = [side.strip() for side in str(contrast or "").split(" - ")]
    if len(sides) != 2 or sides[0] == sides[1] or not set(sides) <= set(arms):
        raise ValueError(
            f"contrast must be 'ARM - ARM' with two different arms of {', '.join(arms)}, got {contrast!r}"
        )
    return sides[0], sides[1]


def parse_measure(given: Any) -> tuple[str, Metric]:
    """Benchmark and metric of ``pooled/avg`` or ``aime24/pass_at_8``. Raises ValueError for another form."""
    benchmark, slash, name = str(given or "").partition("/")
    try:
        if not benchmark or not slash:
            raise ValueError
        return benchmark, _metric(name)
    except ValueError:
        raise ValueError(
            f"metric must be BENCHMARK/METRIC with the benchmark {POOLED} or the name of a suite and the "
            f"metric {_METRICS}, got {given!r}"
        ) from None


def _metric(name: str) -> Metric:
    if name == "avg":
        return AVERAGE
    if name in (certainty := {kind.name: kind for kind in CERTAINTY}):
        return Metric(certainty[name])
    prefix, _, number = name.rpartition("_")
    kind = Kind[prefix] if prefix in Kind.__members__ and prefix not in certainty else None
    at = float(number)
    if kind is None or (not 0 < at <= 1 if kind is Kind.cover_at else at < 1 or not at.is_integer()):
        raise ValueError
    return Metric(kind, at if kind is Kind.cover_at else int(at))


def _number(entry: Mapping[str, Any], key: str) -> float | None:
    """A share; somebody who writes points gets a hundred times too much."""
    given = entry.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not -1 < given < 1:
        raise ValueError(f"{key} must be a share between -1 and 1 (0.02 is two points), got {given!r}")
    return float(given)
