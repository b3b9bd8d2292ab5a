"""What a model component must offer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokensweep.problems.protocol import ProblemSource

Progress = Callable[[int, int], None]  # (steps done, steps in total)


@runtime_checkable
class ModelSource(Protocol):
    """Something that turns into a normal Hugging Face folder, and knows its content identity beforehand."""

    @property
    def chat(self) -> bool:
        """Whether prompts go through the tokenizer's chat template."""
        ...

    def revision(self, *, data: ProblemSource | None) -> str:
        """Identity of the weights that ``materialise`` gives, without building them."""
        ...

    def tokenizer(self, *, data: ProblemSource | None, cache: Path) -> Any | None:
        """The tokenizer, or None where something would have to be built or fetched for it."""
        ...

    def architecture(self, *, cache: Path) -> dict[str, Any] | None:
        """The sizes of its config.json, ``model_type`` among them; None where they are not known yet."""
        ...

    def materialise(
        self, *, data: ProblemSource | None, cache: Path, progress: Progress | None = None
    ) -> Path:
        """A folder with config, safetensors and tokenizer files; built once and kept in ``cache``."""
        ...
