"""STUB until the real one is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": f"{self.folder}/lib"}


def take_snapshot(store: Path) -> Snapshot:
    import hashlib
    import shutil

    root = Path(__file__).parents[3]
    h = hashlib.sha256()
    for d in ("runner", "analysis", "conf", "sweeps", "slurm"):
        for p in sorted((root / d).rglob("*")):
            if p.is_file() and "__pycache__" not in p.parts:
                h.update(p.read_bytes())
    folder = store / "snapshots" / h.hexdigest()[:12]
    if not folder.exists():
        lib = folder / "lib"
        ig = shutil.ignore_patterns("__pycache__")
        for d in ("tokensweep", "hydra_plugins"):
            shutil.copytree(root / "runner" / d, lib / d, ignore=ig)
        shutil.copytree(root / "analysis/tokensweep_analysis", lib / "tokensweep_analysis", ignore=ig)
        for d in ("conf", "sweeps", "slurm"):
            shutil.copytree(root / d, lib / "tokensweep" / d, ignore=ig)
    return Snapshot(folder=folder)


def open_snapshot(folder: Path) -> Snapshot:
    return Snapshot(folder=folder)
