"""Is this answer equal to that one? Extraction, text rules, and math-verify in limited worker processes.

Knows nothing of problems or training, and importing it is light: the workers import it, too.
"""

from tokensweep.verifier.extract import LONGEST, extract
from tokensweep.verifier.normal import canonical, unwrap
from tokensweep.verifier.pool import Verdict, Workers
from tokensweep.verifier.thought import after_thinking, opened_thought
from tokensweep.verifier.uncertainty import (
    MARKER,
    confidence_statement,
    count_markers,
    stated_confidence,
    without_statements,
)
from tokensweep.verifier.verify import NAME, Verifier, verifier

__all__ = [
    "LONGEST",
    "MARKER",
    "NAME",
    "Verdict",
    "Verifier",
    "Workers",
    "after_thinking",
    "canonical",
    "confidence_statement",
    "count_markers",
    "extract",
    "opened_thought",
    "stated_confidence",
    "unwrap",
    "verifier",
    "without_statements",
]
