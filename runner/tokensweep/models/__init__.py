"""Where models come from, and the policy that trainer and engines share.

Importing the package registers the options of the group ``model``.
"""

from tokensweep.models import hf, smollm2, tiny
from tokensweep.models.policy import Policy
from tokensweep.models.prompts import encode_prompt
from tokensweep.models.protocol import ModelSource

__all__ = ["ModelSource", "Policy", "encode_prompt", "hf", "smollm2", "tiny"]
