"""What a planned sweep can find out, before a device is used: the smallest difference each claim detects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokensweep_analysis.arms import Arm, Cell
from tokensweep_analysis.assumed import beyond_accuracy, components_for
from tokensweep_analysis.claims import POOLED, Claim, ClaimKind
from tokensweep_analysis.metrics import AVERAGE, STATED
from tokensweep_analysis.obstacles import LEAST_QUESTIONS, LEAST_SEEDS, another_subject, no_setting
from tokensweep_analysis.power import (
    CENTRAL,
    OPTIMISTIC,
    PESSIMISTIC,
    Advice,
    Components,
    advise,
    components_of,
)
from tokensweep_analysis.rules import ALPHA, RULES
from tokensweep_analysis.verdicts import families
from tokensweep_analysis.wording import counted


@dataclass(frozen=True, kw_only=True)
class PlannedArm:
    """What is going to be measured of an arm in one setting."""

    seeds: tuple[int, ...]
    questions: Mapping[str, int]  # per benchmark
    samples: Mapping[str, int]  # of each question, per benchmark
    models: frozenset[str] = field(default_factory=frozenset)
    data: frozenset[str] = field(default_factory=frozenset)


Planned = Mapping[tuple[str, str], PlannedArm]  # by setting and arm


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """A claim in one setting: what the plan can see of it, or why nothing."""

    claim: Claim
    setting: str
    obstacle: str = ""  # why there will be no verdict whatever comes out
    remark: str = ""  # why there is no figure though there may be a verdict
    # Smallest detectable differences, now and with more of one thing; also where seeds are too few.
    advice: Advice | None = None
    # The lowest and the highest figure of the three scenarios. Where sampling prevails the optimistic one may
    # have the highest: less variance between questions leaves fewer degrees of freedom.
    lowest: float | None = None
    highest: float | None = None
    is_measured: bool = False  # variances of finished runs, otherwise assumed
    num_claims: int = 1  # of the family that Holm adjusts

    @property
    def size(self) -> float | None:
        """What has to be detected: the margin, else the claimed difference."""
        return self.claim.margin if self.claim.margin is not None else self.claim.claimed

    @property
    def to_add(self) -> str:
        """What lowers the figure most: seeds, questions or samples; nothing where it is within the size."""
        if self.obstacle and self.advice:
            return "seeds"
        if self.advice is None or (self.size is not None and self.advice.detectable <= abs(self.size)):
            return "nothing"
        return self.advice.best


def prospects(
    claims: Sequence[Claim], planned: Planned, *, finished: Mapping[Cell, Arm] | None = None
) -> list[Prospect]:
    """A prospect per claim and setting, claims in their order, and one per claim on a setting of no run.

    Variances are those of finished runs of the same arms where ``finished`` has two per arm, otherwise the
    central scenario of :mod:`power` with its optimistic and pessimistic neighbours. Claims of a family are
    planned for Holm's first step, the hardest.
    """
    settings = list(dict.fromkeys(setting for setting, _ in planned))
    found = [
        Prospect(claim=each, setting=each.setting, obstacle=f"not run: {no_setting(each, settings)}")
        for each in claims
        if each.setting and each.setting not in settings
    ]
    for setting in settings:
        own = [claim for claim in claims if claim.setting in ("", setting)]
        for family in families(own):
            obstacles = {claim.id: _obstacle(claim, setting, planned) for claim in family}
            tested = max(1, sum(not text for text in obstacles.values()))
            found += [
                Prospect(claim=claim, setting=setting, obstacle=obstacles[claim.id])
                if obstacles[claim.id]
                else _prospect(claim, setting, planned, tested, finished or {})
                for claim in family
            ]
        for claim in own:
            if claim.kind is ClaimKind.all_of:
                parts = [each for each in found if each.setting == setting and each.claim.id in claim.parts]
                found.append(_whole(claim, setting, parts))
    order = {claim.id: place for place, claim in enumerate(claims)}
    return sorted(found, key=lambda each: order[each.claim.id])


def _obstacle(claim: Claim, setting: str, planned: Planned) -> str:
    """What will keep the claim from a verdict; empty when nothing does."""
    assert claim.metric is not None
    missing = [arm for arm in (claim.left, claim.right) if (setting, arm) not in planned]
    if missing:
        return f"not run: no {' and no '.join(missing)} in this plan"
    sides = [planned[setting, arm] for arm in (claim.left, claim.right)]
    models, data = (sides[0].models, sides[1].models), (sides[0].data, sides[1].data)
    if other := another_subject(claim, models=models, data=data):
        return f"not comparable: {other}"
    asked = (
        [claim.benchmark] if claim.benchmark != POOLED else sorted({*sides[0].questions, *sides[1].questions})
    )
    unasked = [name for name in asked if any(name not in side.questions for side in sides)]
    if unasked or not asked:
        return f"not run: no evaluation on {' and '.join(unasked) or 'anything'}"
    _, samples = _sizes(claim, sides)
    if claim.metric.num_drawn > samples:
        return f"not run: {claim.metric} needs {claim.metric.at:g} samples, planned are {samples}"
    return ""


def _sizes(claim: Claim, sides: Sequence[PlannedArm]) -> tuple[list[int], int]:
    """Questions per benchmark, and the fewest samples of one."""
    benchmarks = list(sides[0].questions) if claim.benchmark == POOLED else [claim.benchmark]
    samples = min(side.samples[name] for side in sides for name in benchmarks if name in side.samples)
    return [sides[0].questions[name] for name in benchmarks], samples


def _prospect(
    claim: Claim, setting: str, planned: Planned, num_claims: int, finished: Mapping[Cell, Arm]
) -> Prospect:
    sides = [planned[setting, arm] for arm in (claim.left, claim.right)]
    seeds = min(len(side.seeds) for side in sides)
    questions, samples = _sizes(claim, sides)
    base = Prospect(claim=claim, setting=setting, num_claims=num_claims)
    if sum(questions) < LEAST_QUESTIONS:
        needed = f"inconclusive: {counted(sum(questions), 'question')}, a verdict needs {LEAST_QUESTIONS}"
        return replace(base, obstacle=needed)
    if seeds < LEAST_SEEDS:
        base = replace(
            base, obstacle=f"inconclusive: {counted(seeds, 'seed')}, a verdict needs {LEAST_SEEDS}"
        )
    metric = claim.metric
    assert metric is not None
    alpha = (ALPHA if RULES[claim.kind].is_two_sided else 2 * ALPHA) / num_claims
    paired = sorted(sides[0].seeds) == sorted(sides[1].seeds)

    def looked(components: Components, twice_sampled: Components | None) -> Advice:
        return advise(
            components,
            twice_sampled=twice_sampled,
            questions=questions,
            seeds=seeds,
            samples=samples,
            paired_seeds=paired,
            alpha=alpha,
        )

    if measured := _measured(claim, setting, finished, samples=samples):
        twice_sampled = measured if metric == AVERAGE else None
        return replace(base, advice=looked(measured, twice_sampled), is_measured=True)
    if what := beyond_accuracy(metric):
        unknown = f"no figure before runs have finished: {metric} depends on {what}"
        return replace(base, remark="" if base.obstacle else unknown)
    cases = [
        looked(*(components_for(metric, each, samples=count) for count in (samples, 2 * samples)))
        for each in (CENTRAL, OPTIMISTIC, PESSIMISTIC)
    ]
    figures = [case.detectable for case in cases]
    return replace(base, advice=cases[0], lowest=min(figures), highest=max(figures))


def _whole(claim: Claim, setting: str, parts: Sequence[Prospect]) -> Prospect:
    """A claim of parts: there is no figure for all of them at once, but one of them is the hardest."""
    base = Prospect(claim=claim, setting=setting)
    if blocked := [part for part in parts if part.obstacle]:
        reasons = {part.obstacle for part in parts}
        names = " and ".join(part.claim.id for part in blocked)
        alone = f"cannot be reproduced: {names} will have no verdict"
        return replace(base, obstacle=reasons.pop() if len(reasons) == 1 else alone)
    whole = "reproduced only if all its parts are"
    if any(part.advice is None for part in parts):
        return replace(base, remark=f"{whole}: see there")
    return replace(base, remark=f"{whole}, so less often than the hardest, {_hardest(parts).claim.id}")


def _hardest(parts: Sequence[Prospect]) -> Prospect:
    """The one whose figure is the largest, in units of its size where all have one."""
    have_sizes = all(part.size for part in parts)

    def hardness(part: Prospect) -> float:
        assert part.advice is not None
        return part.advice.detectable / (abs(part.size) if have_sizes and part.size else 1.0)

    return max(parts, key=hardness)


def _measured(claim: Claim, setting: str, finished: Mapping[Cell, Arm], *, samples: int) -> Components | None:
    """Variances between the two arms as far as they have run; None where two runs of each are missing.

    Those of other metrics than averages hold for the number of samples that the runs have, and are None
    where ``samples`` is another one.
    """
    assert claim.metric is not None
    left, right = (finished.get((setting, arm, claim.benchmark), Arm()) for arm in (claim.left, claim.right))
    if claim.metric.kind in STATED and any(claim.metric not in arm.metrics() for arm in (left, right)):
        return None
    have = min(left.num_samples, right.num_samples)
    if min(len(left.runs), len(right.runs), have) < 2 or (claim.metric != AVERAGE and have != samples):
        return None
    tables = [[table[:, :, 0] for table in arm.tables([claim.metric])] for arm in (left, right)]
    try:
        return components_of(
            tables[0],
            tables[1],
            seeds=left.seeds,
            baseline_seeds=right.seeds,
            samples=have if claim.metric == AVERAGE else None,
        )
    except ValueError:  # other questions than the other arm, or a single one: nothing to learn from
        return None
