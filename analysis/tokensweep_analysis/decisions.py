"""What is read off estimates besides their intervals: equivalence, and a sceptic's view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from tokensweep_analysis.intervals import Estimate, Scores

_NODES = 2000  # of the unknown variance
_REST = 1e-13  # probability of variances that are left out at either end


def tost_p(estimate: Estimate, margin: float) -> float:
    """p of two one-sided t tests: small when the true value lies between ``-margin`` and ``margin``.

    Below alpha if and only if the interval of confidence ``1 - 2 alpha`` lies inside; NaN without one. Raises
    ValueError for a margin that is not positive.
    Source: D. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657. Departure: none.
    """
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence must be positive, got {margin}")
    each = (estimate.p_above(-margin), estimate.p_below(margin))
    return float(np.maximum(*each))  # unlike max, keeps NaN


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of a difference: a mixture of N normal distributions."""

    weights: Scores  # [N], of sum 1
    means: Scores  # [N]
    sds: Scores  # [N]

    def above(self, x: float) -> float:
        """Probability of a difference larger than ``x``; NaN where nothing is known."""
        return float(self.weights @ special.ndtr((self.means - x) / self.sds))


def posterior(estimate: Estimate, *, tau: float = 0.03) -> Belief:
    """Belief in a difference by one who expected none, give or take ``tau`` (3 points).

    Prior N(0, tau^2); the likelihood of the difference d is Student's t around it with the estimate's
    standard error and degrees of freedom, as a mixture of N(d, V_q), V_q = SE^2 df / q with q chi-squared:
    given q, the mean is ``d tau^2 / (tau^2 + V_q)``, the variance ``1 / (1/tau^2 + 1/V_q)``. Were SE^2 taken
    as known, two degrees of freedom would convince a sceptic as hundreds do. NaN where there is no
    interval. Raises ValueError for a ``tau`` that is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    if not estimate.standard_error > 0:
        return Belief(*np.full((3, 1), np.nan))
    chi = stats.chi2(estimate.df)
    q = np.geomspace(chi.ppf(_REST), chi.isf(_REST), _NODES)
    variances = estimate.standard_error**2 * estimate.df / q
    total = tau**2 + variances
    logs = chi.logpdf(q) + np.log(q) - 0.5 * (np.log(total) + estimate.value**2 / total)  # d q = q d log q
    weights = np.exp(logs - logs.max())
    share = tau**2 / total
    return Belief(weights / weights.sum(), estimate.value * share, np.sqrt(share * variances))
