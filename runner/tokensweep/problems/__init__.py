"""Sources of problems with verifiable answers.

Importing the package registers the options of the group ``data``.
"""

from tokensweep.problems import countdown, jsonl, mixture, ops, ops_stated, order, reasoning_gym
from tokensweep.problems.protocol import (
    Answered,
    Demonstrated,
    Grade,
    Mixed,
    Outcome,
    Problem,
    ProblemSource,
    grade_each,
)

__all__ = [
    "Answered",
    "Demonstrated",
    "Grade",
    "Mixed",
    "Outcome",
    "Problem",
    "ProblemSource",
    "countdown",
    "grade_each",
    "jsonl",
    "mixture",
    "ops",
    "ops_stated",
    "order",
    "reasoning_gym",
]
