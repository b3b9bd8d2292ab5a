"""The store: the folder of all runs, private to its owner unless a site shares it with a group."""

from __future__ import annotations

import grp
import os
from pathlib import Path

_PRIVATE = 0o700
_PARTS = ("runs", "sweeps", "snapshots", "models", "data")
_SHARED = 0o2750  # what is made in it belongs to its group, too


def make_store(store: Path, *, group: str | None = None) -> None:
    """Make the folder of a store for its owner alone, or readable for ``group`` as well.

    A folder that exists keeps its mode, and gets parts with this one: whoever made it decides who sees what
    else is in it. Missing parents get the usual mode.
    Raises ValueError for a group that does not exist or that the user is not a member of.
    """
    number = None if group is None else _group_number(group)
    store.parent.mkdir(parents=True, exist_ok=True)
    for folder in [store / name for name in _PARTS] if store.is_dir() else [store]:
        if not folder.is_dir():
            _make(folder, group=group, number=number)


def _make(store: Path, *, group: str | None, number: int | None) -> None:
    try:
        store.mkdir(mode=_PRIVATE)
    except FileExistsError:  # made by another process just now
        return
    if number is None:
        return
    try:
        os.chown(store, -1, number)
    except PermissionError as error:
        store.rmdir()
        raise ValueError(
            f"you must be a member of the group {group!r} to share {store} with it: ask for that, or change "
            "'group' of the site"
        ) from error
    store.chmod(_SHARED)


def _group_number(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r} on this machine: change 'group' of the site") from None
