"""What git says of a folder: which files belong to it, at which commit it is, what was changed since.

git is asked, never told: nothing is written to the checkout. Its owner may be somebody else, as with a
checkout that colleagues share; git's guard against that is set aside, because the code in it is run anyway.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NO_REPOSITORY = "not a git repository"
_OPTIONS = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false")
_PLAIN_DIFF = (  # as git applies it, whatever the user's configuration says
    *("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--binary", "--full-index"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of a folder that git tracks, and those that it neither tracks nor ignores. Absolute paths."""

    tracked: tuple[Path, ...]
    untracked: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A checkout at a moment."""

    root: Path
    commit: str | None  # None before the first one
    branch: str | None  # None with a detached head
    changed: tuple[str, ...]  # tracked files that differ from the commit, relative to the root

    def patch(self, *, without: Iterable[str]) -> bytes:
        """``git diff HEAD`` of the tracked files; of those in ``without`` there is nothing in it."""
        if not self.changed or self.commit is None:
            return b""
        paths = (".", *(f":(top,exclude,literal){path}" for path in without))
        return _git(self.root, "diff", "HEAD", *_PLAIN_DIFF, "--", *paths)


def checkout_of(folder: Path) -> Path | None:
    """The top of the checkout that a folder is part of; None where git ignores it or is not used.

    Raises ValueError with git's complaint when it cannot tell.
    """
    try:
        root = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel")).removesuffix("\n"))
    except FileNotFoundError:  # no git on this machine
        return None
    except ValueError as error:
        if _NO_REPOSITORY in str(error):
            return None
        raise
    ignored = _run(root, "check-ignore", "--quiet", "--", str(folder)).returncode == 0
    return None if ignored else root


def files_of(root: Path, folder: Path) -> Files:
    """The files below a folder of a checkout, as far as they exist."""
    tracked = _paths(root, _git(root, "ls-files", "-z", "--cached", "--", str(folder)))
    others = _paths(root, _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", str(folder)))
    return Files(tracked=tracked, untracked=others)


def look_at(root: Path) -> Checkout:
    """Commit, branch and changes of a checkout."""
    head = _run(root, "rev-parse", "--verify", "--quiet", "HEAD")
    branch = _run(root, "symbolic-ref", "--short", "--quiet", "HEAD")
    commit = head.stdout.decode().strip() or None
    changed = _git(root, "diff", "HEAD", "--name-only", "--no-renames", "-z") if commit else b""
    return Checkout(
        root=root,
        commit=commit,
        branch=os.fsdecode(branch.stdout).strip() or None,
        changed=tuple(os.fsdecode(name) for name in changed.split(b"\0") if name),
    )


def _paths(root: Path, listed: bytes) -> tuple[Path, ...]:
    names = dict.fromkeys(os.fsdecode(name) for name in listed.split(b"\0") if name)
    return tuple(path for path in map(root.joinpath, names) if os.path.lexists(path))


def _git(folder: Path, *words: str) -> bytes:
    """What a git command prints. Raises ValueError with its complaint, FileNotFoundError without git."""
    done = _run(folder, *words)
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ValueError(f"git must be able to read {folder}, but says: {complaint}")
    return done.stdout


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A git command, without what a hook's or a user's environment would make of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *_OPTIONS, "-C", str(folder), *words],
        env={**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
