"""What a table's name of a metric means: which statistic, at which k, from how many samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Statistic(StrEnum):
    """What a printed number is; the value is how findings write it."""

    avg = "avg@"  # mean accuracy over samples
    pass_at = "pass@"  # one of k is correct
    maj_at = "maj@"  # the majority of k is correct
    g_pass = "G-Pass@"  # at least a share of k is correct
    mean = "mean"  # of several statistics or of nothing that is said
    length = "length"  # completion tokens
    other = "other"  # a fraction of steps, tokens or time


@dataclass(frozen=True, kw_only=True)
class PrintedMetric:
    """A metric as the table has it. ``num_samples`` is None where nothing says how many were drawn."""

    statistic: Statistic
    k: int | None = None
    num_samples: int | None = None
    percent: bool = False  # the spelling says percent
    unbiased: bool = False  # estimated from more samples than k
    detail: str = ""  # what else tells statistics apart: the share of G-Pass@k

    @property
    def is_accuracy(self) -> bool:
        """Whether it lies between 0 and 100 % and counts correct answers."""
        return self.statistic not in (Statistic.length, Statistic.other)

    @property
    def family(self) -> tuple[Statistic, int | None]:
        """What cells share that may be averaged; pass@1 is a mean accuracy, from any number of samples."""
        if self.statistic is Statistic.pass_at and self.k == 1:
            return Statistic.avg, None
        return self.statistic, None if self.statistic is Statistic.avg else self.k

    def __str__(self) -> str:
        if self.statistic is Statistic.avg:
            return f"avg@{self.num_samples}" if self.num_samples else "accuracy"
        return (
            f"{self.statistic}{self.k}{self.detail}" if self.statistic.endswith("@") else str(self.statistic)
        )


SPELLINGS = (
    "avg@n, mean@n, acc@n, avg over n responses, pass@1 from n samples, pass@1 mean over n sampling seeds, "
    "pass@k, maj@k, cons@k, G-Pass@k, greedy, accuracy, acc, mean, avg, mean response tokens"
)

_LENGTH = re.compile(r"\b(?:tokens|length|len(?:@\d+)?)\b")
_OTHER = re.compile(r"^(?:fraction|share|number|ratio) of\b")
_DRAWN = re.compile(r"\b(?:over|from|of)\s+(\d+)\s+(?:sampl\w*|responses|seeds|generations|runs)\b")
_AVERAGE = re.compile(r"\b(?:avg|mean|acc|average)@(\d+)")
_AT_K = re.compile(r"\b(m?g-pass|pass|maj|cons|best)@(\d+)(_[0-9.]+)?")
_PLAIN_MEAN = re.compile(r"^(?:(?:avg|mean|average)@k\s+)?(?:mean|avg|average)\b")
_ACCURACY = re.compile(r"\b(?:acc|accuracy|exact match|em)\b")
_AT = {
    "g-pass": Statistic.g_pass,
    "mg-pass": Statistic.g_pass,
    "maj": Statistic.maj_at,
    "cons": Statistic.maj_at,
}


def printed_metric(text: str, k: int | None) -> PrintedMetric:
    """The metric that a table spells ``text`` in a row whose column k holds ``k``.

    Raises ValueError for a spelling that none of the known ones fits, or when k contradicts it.
    """
    percent, name = "%" in text, text.lower().strip()
    if _LENGTH.search(name):
        return PrintedMetric(statistic=Statistic.length)
    if _OTHER.search(name):
        return PrintedMetric(statistic=Statistic.other)
    drawn, average, at = _DRAWN.search(name), _AVERAGE.search(name), _AT_K.search(name)
    if average or (drawn and (at is None or at.group(2) == "1")):
        return _average(int((average or drawn).group(1)), percent=percent)  # type: ignore[union-attr]
    if "greedy" in name:
        return _average(1, percent=percent)
    if _PLAIN_MEAN.search(name):
        avg = "@k" in name and "mixed" not in name
        return PrintedMetric(statistic=Statistic.avg if avg else Statistic.mean, percent=percent)
    if at:
        return _at_k(at, k, percent=percent, unbiased="unbiased" in name, text=text)
    if _ACCURACY.search(name):
        return _average(k, percent=percent)
    raise ValueError(f"metric must be spelled like one of {SPELLINGS}; got {text!r}: rename it")


def _average(num_samples: int | None, *, percent: bool) -> PrintedMetric:
    return PrintedMetric(statistic=Statistic.avg, k=1, num_samples=num_samples, percent=percent)


def _at_k(at: re.Match[str], k: int | None, *, percent: bool, unbiased: bool, text: str) -> PrintedMetric:
    kind, own = at.group(1), int(at.group(2))
    if k is not None and own not in (1, k):
        raise ValueError(f"column k must agree with the metric {text!r}, got {k}: correct one of them")
    statistic = _AT.get(kind, Statistic.pass_at)
    detail = at.group(3) or (" mean over shares" if kind == "mg-pass" else "")
    return PrintedMetric(statistic=statistic, k=own, percent=percent, unbiased=unbiased, detail=detail)
