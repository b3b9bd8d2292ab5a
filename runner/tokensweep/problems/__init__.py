"""Sources of problems with verifiable answers.

Importing the package registers the options of the group ``data``.
"""

from tokensweep.problems import countdown, jsonl, ops, order, reasoning_gym
from tokensweep.problems.protocol import Demonstrated, Grade, Outcome, Problem, ProblemSource

__all__ = [
    "Demonstrated",
    "Grade",
    "Outcome",
    "Problem",
    "ProblemSource",
    "countdown",
    "jsonl",
    "ops",
    "order",
    "reasoning_gym",
]
