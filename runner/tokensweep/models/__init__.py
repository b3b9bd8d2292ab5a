"""Where models come from; the policy that trainer and engines share is in ``tokensweep.models.policy``.

Importing the package registers the options of the groups ``model``, ``prompt`` and ``trainable`` and stays
light: transformers takes seconds to import and is only needed once a model is built or loaded.
"""

from tokensweep.models import hf, smollm2, tiny, trainable, unreleased
from tokensweep.models.prompts import encode_prompt
from tokensweep.models.protocol import ModelSource

__all__ = ["ModelSource", "encode_prompt", "hf", "smollm2", "tiny", "trainable", "unreleased"]
