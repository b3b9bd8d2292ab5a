"""Where things live: configuration folders, the store, and a user's own additions.

This module and ``cli.py`` are the only ones that read the environment.
"""

from __future__ import annotations

import os
from pathlib import Path

TRACKING_VARIABLE = "TOKENSWEEP_TRACKING_URI"
STORAGE_VARIABLE = "TOKENSWEEP_SEARCH_STORAGE"

_PACKAGE = Path(__file__).parent


def _shipped(name: str) -> Path:
    """A folder that sits in the package when installed and at the top of the repository in a checkout."""
    packaged = _PACKAGE / name
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / name


def conf_dir() -> Path:
    """The Hydra configuration that ships with tokensweep."""
    return _shipped("conf")


def extension_dirs() -> list[Path]:
    """Folders in ``TOKENSWEEP_PATH`` (separated like ``PATH``) with conf/, sweeps/, sites/, methods/ in them.

    Raises ValueError for an entry that is no folder.
    """
    folders = [
        Path(entry).expanduser().resolve()
        for entry in os.environ.get("TOKENSWEEP_PATH", "").split(os.pathsep)
        if entry
    ]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"TOKENSWEEP_PATH must list folders, but {folder} is none: create it or drop the entry"
            )
    return folders


def sweep_dirs() -> list[Path]:
    """Where a sweep file is looked up by name, first match wins."""
    own = [Path.cwd() / "sweeps", *(folder / "sweeps" for folder in extension_dirs())]
    return [*own, _shipped("sweeps")]


def site_dirs() -> list[Path]:
    """Where a site is looked up by name, first match wins."""
    own = [Path.cwd() / "sites", *(folder / "sites" for folder in extension_dirs())]
    return [*own, _shipped("slurm") / "sites"]


def default_store() -> Path:
    """``TOKENSWEEP_HOME``, or ``tokensweep`` in the home folder."""
    return Path(os.environ.get("TOKENSWEEP_HOME") or Path.home() / "tokensweep").expanduser().resolve()


def tracking_uri() -> str:
    """MLflow's address for a job on a node, which is handed over in its environment and in no file."""
    return os.environ.get(TRACKING_VARIABLE, "")


def storage_uri() -> str:
    """Where studies of searches are kept: a database's address, or empty for a file in each one's folder.

    It may hold a password, so it is handed over in the environment and stands in no file.
    """
    return os.environ.get(STORAGE_VARIABLE, "")
