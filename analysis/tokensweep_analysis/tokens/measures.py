"""The numbers: percentiles of entropy, tokens above the threshold, overlap with the base, change, position.

All take the token table with its selection (``selection.select``) and give a table of their own.
"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PERCENTILES = (50, 80, 90, 95, 99)
NEARLY_SURE = 0.01  # nats; the paper finds 50.64 % of tokens below it (Qwen3-8B, section 3)
_TOP_SHARE = 0.2  # the paper's rho
_CONFIDENCE = 0.95


def percentiles(table: pd.DataFrame) -> pd.DataFrame:
    """Entropy in nats by step, and a last row of all steps together (``step`` is null there).

    ``below_0_01`` is the share of tokens with less than 0.01 nats, ``top_20_share`` the share of all entropy
    that lies on the ceil(20 %) tokens of highest entropy. Percentiles interpolate linearly.
    """
    rows = [_percentile_row(step, part["entropy"].to_numpy(float)) for step, part in table.groupby("step")]
    rows.append(_percentile_row(None, table["entropy"].to_numpy(float)))
    return pd.DataFrame(rows).astype({"step": "Int64"})


def _percentile_row(step: object, entropy: NDArray[np.float64]) -> dict[str, object]:
    highest = np.sort(entropy)[::-1][: int(np.ceil(_TOP_SHARE * len(entropy) - 1e-9))]
    total = entropy.sum()
    return {
        "step": step,
        "tokens": len(entropy),
        "mean": entropy.mean(),
        **{f"p{p}": np.percentile(entropy, p) for p in PERCENTILES},
        "below_0_01": (entropy < NEARLY_SURE).mean(),
        "top_20_share": highest.sum() / total if total > 0 else nan,
    }


def top_tokens(table: pd.DataFrame, *, min_count: int) -> pd.DataFrame:
    """Tokens of the vocabulary that occur at least ``min_count`` times, most often above the threshold first.

    Columns: token_id, token, count, above (occurrences among the tokens of high entropy), above_share,
    mean_entropy, and mean_base_entropy (NaN without a base).
    """
    by = table.groupby("token_id")
    found = pd.DataFrame(
        {
            "token": by["token"].first().astype(str),
            "count": by.size(),
            "above": by["top"].sum(),
            "above_share": by["top"].mean(),
            "mean_entropy": by["entropy"].mean(),
            "mean_base_entropy": by["base_entropy"].mean(),
        }
    ).reset_index()
    found = found[found["count"] >= min_count]
    order = ["above", "mean_entropy", "token_id"]
    return found.sort_values(order, ascending=[False, False, True], ignore_index=True)


def overlap(table: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How far the tokens of high entropy (A) are those of the base model (B), by step.

    ``overlap`` is |A and B| / |A|, ``jaccard`` |A and B| / |A or B|; ``chance`` is the overlap that a random
    choice of |B| tokens would have, |B| / N. Intervals are 95 % percentiles of a bootstrap over prompts
    (their rollouts stay together, and A and B are not chosen again); NaN for fewer than two prompts.
    Source: arXiv:2506.01939, table of section 4. Departure: the paper compares on responses of the converged
    model; here each step is compared on the rollouts that it sampled.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for step, part in table.groupby("step"):
        sets = pd.DataFrame({"a": part["top"], "b": part["base_top"], "both": part["top"] & part["base_top"]})
        sums = sets.groupby(part["group"]).sum().to_numpy(float)  # [C, 3]
        num = len(sums)
        a, b, both = (int(each) for each in sums.sum(axis=0))
        drawn = rng.multinomial(num, np.full(num, 1 / num), size=draws) @ sums  # [draws, 3]
        row = {"step": step, "tokens": len(part), "prompts": num, "top": a, "base_top": b, "both": both}
        for name, value, spread in (
            ("overlap", _share(both, a), _shares(drawn[:, 2], drawn[:, 0])),
            ("jaccard", _share(both, a + b - both), _shares(drawn[:, 2], drawn @ [1.0, 1.0, -1.0])),
        ):
            low, high = _interval(spread) if num > 1 else (nan, nan)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append({**row, "chance": _share(b, len(part))})
    return pd.DataFrame(rows)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else nan


def _shares(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = part[whole > 0] / whole[whole > 0]
    return shares


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    if not len(values):
        return nan, nan
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def change_by_base(table: pd.DataFrame, *, bins: int) -> pd.DataFrame:
    """Entropy minus base entropy, in nats, by step and by percentile of the base entropy.

    Each step's tokens in ascending order of base entropy (ties to the earlier token) are cut into ``bins``
    parts of the same size; ``from`` and ``to`` are their percentiles. The token of rank r of N, from 0, is in
    bin floor(r * bins / N). ``relative`` is the change over the bin's mean base entropy.
    Source: arXiv:2506.01939, section 4. Departure: as in :func:`overlap`, on the rollouts of each step.
    """
    rows = []
    for step, part in table.groupby("step"):
        base, entropy = (part[name].to_numpy(float) for name in ("base_entropy", "entropy"))
        rank = np.empty(len(base), dtype=np.int64)
        rank[np.argsort(base, kind="stable")] = np.arange(len(base))
        bin_of = rank * bins // len(base)
        for number in range(bins):
            inside = bin_of == number
            if not inside.any():
                continue
            before, after = base[inside].mean(), entropy[inside].mean()
            rows.append(
                {
                    "step": step,
                    "from": 100 * number / bins,
                    "to": 100 * (number + 1) / bins,
                    "tokens": int(inside.sum()),
                    "base_entropy": before,
                    "entropy": after,
                    "change": after - before,
                    "relative": (after - before) / before if before > 0 else nan,
                }
            )
    return pd.DataFrame(rows)


def by_position(table: pd.DataFrame, *, bins: int) -> pd.DataFrame:
    """Mean entropy and kept share by step and by place in the completion.

    At most ``bins`` ranges of positions, all ``ceil(longest / bins)`` wide; ``from`` and ``to`` (not
    included) are positions from 0. Late ranges hold long rollouts only: ``tokens`` says how many are left.
    """
    longest = int(table["position"].max()) + 1
    width = -(-longest // bins)
    by = table.groupby(["step", table["position"] // width])
    found = by.agg(
        tokens=("entropy", "size"),
        entropy=("entropy", "mean"),
        base_entropy=("base_entropy", "mean"),
        kept_share=("kept", "mean"),
    ).reset_index(names=["step", "from"])
    found["from"] *= width
    found.insert(2, "to", found["from"] + width)
    return found
