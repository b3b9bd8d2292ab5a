"""Which files are the code that runs, and which stay behind: secrets, weights, data, links to elsewhere."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tokensweep.cluster.checkout import checkout_of, files_of
from tokensweep.paths import conf_dir, extension_dirs

_EXTENSION_PARTS = ("conf", "sweeps", "sites", "methods")
_GENERATED = ("__pycache__", "*.py[co]", ".git", "*.egg-info", ".*_cache", ".ipynb_checkpoints", ".DS_Store")
_SECRET = (
    *(".env*", "*.env", ".netrc*", "_netrc", "*.netrc", ".pgpass", ".my.cnf", ".npmrc", ".pypirc"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.gpg", "*.asc"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".aws", ".gnupg", ".docker", ".kube"),
    *("credentials*", "*credentials.json", ".git-credentials", ".htpasswd", "*kubeconfig*"),
    *("service[-_]account*.json", "secrets*", "*[-_.]secret", "*[-_.]secrets.*", "*secret*.txt"),
    *("*token*.txt", "*.token", ".token*", "token", "token.json", "hf_token*"),
    *("*passw*.txt", "*api[-_]key*", "*apikey*"),
)
_WEIGHTS_OR_DATA = (
    *("*.safetensors", "*.pt", "*.pth", "*.bin", "*.ckpt", "*.gguf", "*.onnx", "*.h5", "*.hdf5", "*.npz"),
    *("*.npy", "*.parquet", "*.arrow", "*.feather", "*.pkl", "*.pickle", "*.joblib", "*.tfrecord*"),
    *("*.tar", "*.tar.*", "*.tgz", "*.zip", "*.gz", "*.xz", "*.zst", "*.7z", "*.db", "*.sqlite*"),
)
_TABLES = ("*.jsonl", "*.csv", "*.tsv")  # data unless they are small
_SMALL_TABLE = 100_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Files to copy, by where they go, and what stays behind."""

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)  # and why
    untracked: set[Path] = field(default_factory=set)  # files to copy that git does not know yet


def code_roots() -> dict[str, Path]:
    """The folders of this very installation by where they lie in an installed one, ``lib`` in front.

    In a checkout ``conf``, ``sweeps`` and ``slurm`` are beside the sources, in a wheel inside the package.
    """
    package = Path(__file__).resolve().parents[1]
    roots = {"lib/tokensweep": package}
    roots |= {f"lib/{name}": _folder_of(name) for name in ("tokensweep_analysis", "hydra_plugins")}
    shipped = conf_dir().resolve().parent
    if shipped != package:
        roots |= {f"lib/tokensweep/{name}": shipped / name for name in ("conf", "sweeps", "slurm")}
    return roots


def _folder_of(name: str) -> Path:
    module = "hydra_plugins.tokensweep_plugins" if name == "hydra_plugins" else name
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is part of every installation"
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent


def select(store: Path) -> Selection:
    """The code of this installation and of ``TOKENSWEEP_PATH``, without what lies in ``store``.

    Raises ValueError when git cannot read a checkout.
    """
    selection = Selection()
    for target, folder in code_roots().items():
        ours = target != "lib/hydra_plugins"
        _add(selection, target, folder, store=store, only=() if ours else ("tokensweep*",))
    for number, folder in enumerate(extension_dirs()):
        _add(selection, f"extensions/{number}", folder, store=store, only=_EXTENSION_PARTS)
    return selection


def reason_to_leave_out(path: Path, *, size: int) -> str | None:
    """Why a file of this name and size is not copied, judged by every part of ``path``; None if it is."""
    parts = [part.casefold() for part in path.parts]
    if _matches(parts, _SECRET):
        return "may hold a secret, by its name"
    if _matches(parts[-1:], _WEIGHTS_OR_DATA):
        return "weights or data, by its name"
    if _matches(parts[-1:], _TABLES) and size > _SMALL_TABLE:
        return f"data: {size:,} bytes, more than {_SMALL_TABLE:,}"
    return None


def _matches(parts: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(part, pattern) for part in parts for pattern in patterns)


def _add(selection: Selection, target: str, folder: Path, *, store: Path, only: tuple[str, ...]) -> None:
    """Sort the files of a source folder; with ``only``, those below entries of these names."""
    root = checkout_of(folder)
    listed = files_of(root, folder) if root else None
    paths: Iterable[Path] = (*listed.tracked, *listed.untracked) if listed else _walk(folder)
    skip_store = not folder.is_relative_to(store)  # a user's own folder may lie in the store
    for path in sorted(paths):
        relative = path.relative_to(folder)
        if _matches(relative.parts, _GENERATED) or (skip_store and path.is_relative_to(store)):
            continue
        if only and not _matches(relative.parts[:1], only):
            continue
        where = f"{target}/{relative.as_posix()}"
        reason = _reason(path, relative, within=root or folder)
        if reason:
            selection.left_out[path] = reason
            continue
        selection.files[where] = path
        if listed and path in listed.untracked:
            selection.untracked.add(path)


def _walk(folder: Path) -> Iterator[Path]:
    """All files, and links whatever they lead to; links to folders are not entered."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _matches([name], _GENERATED)]
        links = [name for name in folders if Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in (*files, *links))


def _reason(path: Path, relative: Path, *, within: Path) -> str | None:
    """Why a file that is there is not copied."""
    real, within = path.resolve(), within.resolve()
    if not real.is_relative_to(within):
        return "a link that leads out of its folder"
    try:
        about = real.stat()
    except FileNotFoundError:
        return "a link that leads nowhere"
    if not stat.S_ISREG(about.st_mode):
        return "no regular file"
    names = [relative, real.relative_to(within)] if path.is_symlink() else [relative]
    return next(filter(None, (reason_to_leave_out(name, size=about.st_size) for name in names)), None)


def left_out_of_patch(changed: Iterable[str], *, root: Path) -> Mapping[str, str]:
    """Of the changed files of a checkout those that no snapshot may hold, with the reason."""
    found = {}
    for name in changed:
        path = root / name
        size = path.lstat().st_size if os.path.lexists(path) else 0
        if reason := reason_to_leave_out(Path(name), size=size):
            found[name] = reason
    return found
