"""How many questions a benchmark has, whatever a paper calls it. For the checks of published tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import yaml

from tokensweep.paths import conf_dir

_TRAINING_SETS = ("dapo_math_17k", "deepscaler", "gsm8k", "math")  # problem sets of conf/data to train on
_ALSO = {"amc23": (83,)}  # some papers call the older set of AMC 12 2022 and 2023 AMC23
_OTHER_SIZES = {  # sets that conf/data has no problems for; where several sizes are in use, the usual first
    "amc": (83, 40),  # AMC 12 of 2022 and 2023, or of 2023 alone
    "cmimc25": (40,),
    "gpqa_diamond": (198,),
    "math": (5000, 500),  # MATH's test split, or the 500 of MATH-500 under its name
    "minerva": (272,),
    "olympiadbench": (675, 674),
    "omnimath": (4428,),
}
_ALIASES = {
    "aime2024": "aime24",
    "aime2025": "aime25",
    "aime2026": "aime26",
    "amc2023": "amc23",
    "amc12": "amc",
    "brumo2025": "brumo25",
    "cmimc2025": "cmimc25",
    "gpqa": "gpqa_diamond",
    "gpqad": "gpqa_diamond",
    "gpqadiamond": "gpqa_diamond",
    "gsm8ktest": "gsm8k",
    "hmmtfeb2025": "hmmt_feb25",
    "hmmtfeb25": "hmmt_feb25",
    "hmmt25": "hmmt_feb25",
    "hmmt2025": "hmmt_feb25",
    "hmmtfeb2026": "hmmt_feb26",
    "hmmtfeb26": "hmmt_feb26",
    "hmmtnov2025": "hmmt_nov25",
    "hmmtnov25": "hmmt_nov25",
    "math500": "math500",
    "minervamath": "minerva",
    "olympiad": "olympiadbench",
    "olympiadbenchmath": "olympiadbench",
}
_MEAN = re.compile(r"^(?:macro[- ])?(?:mean|avg|average)\b\.?(?:\s+of\s+(?P<count>\d+))?", re.IGNORECASE)
_STATED = re.compile(r"^(?P<name>.*?)\s*(?:\((?P<size>\d+)(?:\s+of\s+\d+)?\)|(?<=\d{4})-(?P<tail>\d+))$")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark, or a mean over several. ``sizes`` are numbers of questions, the usual one first."""

    name: str  # one for all spellings
    sizes: tuple[int, ...] = ()  # empty: unknown
    is_mean: bool = False
    num_averaged: int | None = None  # of a mean, when the table says so

    @property
    def size(self) -> int | None:
        """The usual number of questions."""
        return self.sizes[0] if self.sizes else None


@cache
def benchmark(text: str) -> Benchmark:
    """What a table's name of a benchmark stands for.

    ``AIME'24``, ``AIME 2024`` and ``aime24`` are one; ``NAME (39 of 40)``, ``NAME (633)`` and ``NAME2024-45``
    state their number of questions. A name that nobody knows has no sizes.
    """
    mean = _MEAN.match(text.strip())
    if mean:
        count = mean.group("count")
        return Benchmark(name="mean", is_mean=True, num_averaged=int(count) if count else None)
    stated = _STATED.match(text.strip())
    if stated:
        size = int(stated.group("size") or stated.group("tail"))
        return Benchmark(name=f"{_key(stated.group('name'))} ({size})", sizes=(size,))
    name = _key(text)
    return Benchmark(name=name, sizes=known_sizes().get(name, ()))


@cache
def known_sizes() -> dict[str, tuple[int, ...]]:
    """Numbers of questions by name: the evaluation sets of conf/data, and those that only papers use."""
    sizes = {}
    for path in sorted((conf_dir() / "data").glob("*.yaml")):
        size = yaml.safe_load(path.read_text(encoding="utf-8")).get("num_problems")
        if size is not None and path.stem not in _TRAINING_SETS:
            name = path.stem.removesuffix("_test")
            sizes[name] = (int(size), *_ALSO.get(name, ()))
    return sizes | _OTHER_SIZES


def _key(text: str) -> str:
    squeezed = re.sub(r"[^a-z0-9]", "", text.lower())
    if squeezed in _ALIASES:
        return _ALIASES[squeezed]
    underscored = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if underscored in known_sizes():
        return underscored
    return squeezed if squeezed in known_sizes() else underscored
