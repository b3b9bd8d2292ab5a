"""Any model on this machine or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from tokensweep.models.protocol import Progress
from tokensweep.models.shape import check_shape, read_architecture
from tokensweep.models.store import check_folder, load_tokenizer
from tokensweep.problems.dates import check_day
from tokensweep.problems.protocol import ProblemSource
from tokensweep.registry import component

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONTENT = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


@component("model", "hf")
@dataclass(frozen=True)
class HfModel:
    """A folder (absolute ``path``) or a hub repository (``path: owner/name`` with its ``commit``).

    ``shape`` repeats sizes of its config.json, under the same names, for plans made where the model is not;
    weights with another config.json are refused.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("path", "released", "shape")

    path: str = ""
    commit: str = ""  # 40 hex digits; hub only: a branch moves, so it identifies nothing
    chat: bool = True  # prompts go through the tokenizer's chat template
    released: str = ""  # day as 2025-04-28; empty: unknown. Benchmarks that are older may have been seen
    shape: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_day("released", self.released)

    def revision(self, *, data: ProblemSource | None) -> str:
        """Hash of the folder's files, or the hub's commit. Raises ValueError for an unusable path."""
        if self._is_folder():
            return f"hf-{_folder_hash(self._check_folder())}"
        return f"{self.path}@{self._check_hub()}"

    def tokenizer(self, *, data: ProblemSource | None, cache: Path) -> Any | None:
        """The one of the folder, or of what was downloaded of the repository before."""
        if self._is_folder():
            return load_tokenizer(self._check_folder())
        target = self._target(cache)
        return load_tokenizer(target) if (target / "tokenizer.json").is_file() else None

    def architecture(self, *, cache: Path) -> dict[str, Any] | None:
        """``shape``, or where it is empty the config.json of the folder or of what was downloaded before."""
        if self.shape:
            return dict(self.shape)
        folder = Path(self.path) if self._is_folder() else self._target(cache)
        return read_architecture(folder)

    def materialise(
        self, *, data: ProblemSource | None, cache: Path, progress: Progress | None = None
    ) -> Path:
        """The folder itself, or the repository at its commit, downloaded into ``cache``.

        Raises ValueError where the folder is no model, or the repository is neither there nor to be had, and
        where its config.json differs from ``shape``.
        """
        return check_shape(self._fetched(cache), self.shape)

    def _fetched(self, cache: Path) -> Path:
        if self._is_folder():
            return self._check_folder()
        from huggingface_hub import snapshot_download  # slow to import, and needed for the hub only
        from huggingface_hub.errors import (
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        commit, target = self._check_hub(), self._target(cache)
        try:
            snapshot_download(self.path, revision=commit, local_dir=target, allow_patterns=list(_CONTENT))
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise ValueError(
                f"{self.path} at commit {commit} must be on the hub and open to you, but the hub answers "
                f"{type(error).__name__}: correct model.path or model.commit, or log in with `hf auth login`"
            ) from error
        except LocalEntryNotFoundError as error:  # offline, or no connection: this is what is left to try
            raise ValueError(
                f"{self.path} at commit {commit} is not in {target}, and the hub can't be reached from here: "
                f"on a machine with internet run `hf download {self.path} --revision {commit} --local-dir "
                "FOLDER`, copy FOLDER here and give model.path=FOLDER, or move it to that place"
            ) from error
        return check_folder(target)

    def _target(self, cache: Path) -> Path:
        return cache / f"{self.path.replace('/', '--')}-{self._check_hub()[:12]}"

    def _is_folder(self) -> bool:
        """Whether the path means a folder rather than a hub id."""
        if not self.path:
            raise ValueError(
                "model=hf has no model: give model.path=FOLDER, or model.path=OWNER/NAME with model.commit"
            )
        return not is_hub_id(self.path)

    def _check_folder(self) -> Path:
        if not Path(self.path).is_absolute():
            raise ValueError(f"model.path must be absolute or a hub id OWNER/NAME, got {self.path!r}")
        return check_folder(Path(self.path))

    def _check_hub(self) -> str:
        if not _COMMIT.fullmatch(self.commit):
            raise ValueError(
                f"{self.path} is no folder here, so it is on the hub, and model.commit must be the 40 hex "
                f"digits of a commit, got {self.commit!r}: copy it from the repository's history, as a "
                "branch may move between two runs"
            )
        return self.commit


def is_hub_id(path: str) -> bool:
    """Whether ``path`` has the form OWNER/NAME of a repository."""
    return bool(_HUB_ID.fullmatch(path)) and path.split("/")[0] not in (".", "..")


def _folder_hash(folder: Path) -> str:
    """Hash of names and contents of the model's files."""
    files = sorted(file for pattern in _CONTENT for file in folder.glob(pattern))
    whole = hashlib.sha256()
    for file in files:
        stat = file.stat()
        whole.update(f"{file.name}:{_file_hash(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return whole.hexdigest()[:16]


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; size and time of change only key the cache, as weights take seconds."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
