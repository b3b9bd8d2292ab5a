"""The tiny model: half a million parameters that learn a procedural task in a minute on one core.

It is built on first use: a Qwen3 of random weights, warm-started on the demonstrations of the run's own task,
so that reinforcement begins with a model that can carry out but not yet decide.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokensweep.models.characters import EOS, PAD, VOCABULARY, character_tokenizer
from tokensweep.models.protocol import Progress
from tokensweep.models.store import build_once, fingerprint
from tokensweep.problems.protocol import Demonstrated, ProblemSource
from tokensweep.registry import component

_RECIPE = 1  # raise when the same fields and data would give another model


@component("model", "tiny")
@dataclass(frozen=True)
class TinyModel:
    """A Qwen3 over single characters, warm-started for ``steps`` batches of ``batch`` demonstrations."""

    hidden: int = 96
    layers: int = 4
    heads: int = 3
    head_dim: int = 32
    mlp: int = 288
    seed: int = 0
    steps: int = 400
    batch: int = 32
    lr: float = 3e-3  # peak; 20 steps of warm-up, then linear down to a tenth

    def __post_init__(self) -> None:
        for field in ("hidden", "layers", "heads", "head_dim", "mlp", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

    @property
    def chat(self) -> bool:
        """Never: the model reads bare prompts."""
        return False

    def revision(self, *, data: ProblemSource | None) -> str:
        """Identity by recipe, as the weights do not exist yet: fields, data and the version of the code."""
        return f"tiny-{fingerprint(_RECIPE, asdict(self), _demonstrated(data).content_hash())}"

    def tokenizer(self, *, data: ProblemSource | None, cache: Path) -> Any:
        """The one of single characters, whether the model was built or not."""
        return character_tokenizer()

    def architecture(self, *, cache: Path) -> dict[str, Any]:
        """A Qwen3 of these fields."""
        return {
            "model_type": "qwen3",
            "vocab_size": len(VOCABULARY),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        }

    def materialise(
        self, *, data: ProblemSource | None, cache: Path, progress: Progress | None = None
    ) -> Path:
        """The folder in ``cache``, built once. Raises ValueError for data without demonstrations."""
        source = _demonstrated(data)
        return build_once(
            cache / self.revision(data=data), lambda folder: self._write(folder, source, progress)
        )

    def _write(self, folder: Path, data: Demonstrated, progress: Progress | None) -> None:
        from tokensweep.models.warmstart import WarmStart, warm_start

        tokenizer = character_tokenizer()
        model = self._random()
        plan = WarmStart(steps=self.steps, batch=self.batch, lr=self.lr, seed=self.seed)
        warm_start(model, tokenizer, data, plan=plan, progress=progress)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _random(self) -> Any:
        """Random weights that depend on the seed alone; the global generator is left as it was."""
        import torch
        from transformers import AutoConfig, Qwen3ForCausalLM

        config = AutoConfig.for_model(
            **self.architecture(cache=Path()),
            use_sliding_window=False,
            bos_token_id=None,
            eos_token_id=VOCABULARY.index(EOS),
            pad_token_id=VOCABULARY.index(PAD),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Qwen3ForCausalLM(config)


def _demonstrated(data: ProblemSource | None) -> Demonstrated:
    """The data if a model can be warm-started on it."""
    if isinstance(data, Demonstrated):
        return data
    got = "no data" if data is None else f"{data.name}, which has none"
    raise ValueError(
        f"model=tiny must be warm-started on demonstrations, got {got}: "
        "choose data=ops, ops_stated, order or countdown, or a model that reads text, such as "
        "model=smollm2_135m"
    )
