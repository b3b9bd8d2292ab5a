"""Checks of the store and of the database that MLflow keeps: mode, space, locks, the kind of file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sqlite3
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tokensweep.doctor.finding import Check, Finding, fail, ok, warn
from tokensweep.mlflow_client import check_uri

_GB = 10**9
_LITTLE_GB, _TOO_LITTLE_GB = 20.0, 1.0  # a checkpoint of a 0.5B model with its optimiser takes 6 GB
_FEW_FILES = 10_000
_SQLITE = "sqlite:///"
_SERVER_S = 2.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_NETWORK = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs", "glusterfs"),
        *("gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs"),
    }
)


@dataclass(frozen=True)
class Mount:
    """A mounted file system."""

    point: str
    kind: str  # nfs4, lustre, ext4, ...
    options: frozenset[str]

    @property
    def is_network(self) -> bool:
        """Whether other machines write to it, too."""
        return self.kind in _NETWORK or self.kind.startswith("beegfs")

    @property
    def locks_stay_here(self) -> bool:
        """Whether it is mounted so that other machines don't see locks."""
        return bool(self.options & {"nolock", "localflock", "local_lock=all", "local_lock=flock"})


def store_checks(store: Path, *, uri: str, group: str | None = None) -> list[Check]:
    """Checks of a store, which need not exist yet, and of MLflow. ``group`` may read the store, if given."""
    return [
        Check("store", partial(writable, store)),
        Check("privacy", partial(privacy, store, group=group)),
        Check("space", partial(space, store)),
        Check("locks", partial(locks, store)),
        Check("file system", partial(file_system, store)),
        Check("MLflow", partial(tracking, uri)),
    ]


def writable(store: Path) -> Finding:
    """Whether the store is there, or can be made, and takes files."""
    place = _existing(store)
    if not place.is_dir():
        return fail(f"{place} must be a folder, but is a file", "give store=FOLDER or set TOKENSWEEP_HOME")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return fail(
            f"{place} cannot be written: {error.strerror}", "give store=FOLDER or set TOKENSWEEP_HOME"
        )
    return ok(f"{store} is writable" if store == place else f"{store} will be made when something runs")


def privacy(store: Path, *, group: str | None) -> Finding:
    """Who else can read the store."""
    if not store.is_dir():
        return ok("the store will be made for you alone" + (f" and the group {group}" if group else ""))
    mode = stat.S_IMODE(store.stat().st_mode)
    if mode & 0o007:
        return warn(
            f"everybody on this machine can look into the store (mode {mode:04o})",
            f"chmod {'o-rwx' if group else '700'} {store}",
        )
    if mode & 0o070 and not group:
        return warn(
            f"the group {_group_of(store)} can look into the store (mode {mode:04o})",
            f"chmod 700 {store}, or name the group in the site if it shall",
        )
    if group and (_group_of(store) != group or not mode & 0o050):
        return warn(
            f"the site's group {group} cannot look into the store (mode {mode:04o}, {_group_of(store)})",
            f"chgrp -R {group} {store} && chmod 2750 {store}",
        )
    return ok(f"mode {mode:04o}" + (f", group {group}" if group else ", for you alone"))


def space(store: Path) -> Finding:
    """Free space and free inodes for this user. A quota that the file system does not show is not seen."""
    place = _existing(store)
    free_gb = shutil.disk_usage(place).free / _GB
    counts = os.statvfs(place)
    told = f"{free_gb:.1f} GB free"
    advice = "tokensweep gc shows what can go; or give store=FOLDER elsewhere"
    if free_gb < _TOO_LITTLE_GB:
        return fail(told, advice)
    if free_gb < _LITTLE_GB:
        return warn(f"{told}: room for few checkpoints of larger models", advice)
    if counts.f_files and counts.f_favail < _FEW_FILES:
        return warn(f"{told}, but only {counts.f_favail} more files", advice)
    return ok(told)


def locks(store: Path) -> Finding:
    """Whether flock works where the store is, and as far as can be told, between machines."""
    place = _existing(store)
    advice = "ask for a file system with flock (Lustre: mounted with the option flock; NFS: version 4)"
    try:
        with (
            tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as first,
            Path(first.name).open() as second,
        ):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fail(f"flock excludes nobody in {place}: two processes could work on one run", advice)
    except OSError as error:
        return fail(f"flock does not work in {place}: {error.strerror}", advice)
    mount = mount_of(place)
    if mount.locks_stay_here:
        return warn(f"{mount.point} is mounted so that other machines don't see locks", advice)
    return ok("flock excludes a second process" + ("; other machines not tried" if mount.is_network else ""))


def file_system(store: Path) -> Finding:
    """Which kind of file system the store is on."""
    mount = mount_of(_existing(store))
    if mount.kind == "tmpfs":
        return warn(
            f"{mount.point} is in memory: runs are gone after a restart", "give store=FOLDER elsewhere"
        )
    shared = "a network file system" if mount.is_network else "local to this machine"
    return ok(f"{mount.kind} at {mount.point}, {shared}")


def tracking(uri: str) -> Finding:
    """Whether MLflow can be reached, or its database opened. Neither is made or changed."""
    if uri.startswith(_SQLITE):
        return _sqlite(Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute())
    check_uri(uri)
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    later = "is it up, and right? runs don't wait for it; `tokensweep sync` brings it up to date later"
    try:
        if scheme in ("http", "https"):
            _health(f"{shown}{parts.path.rstrip('/')}/health")
        else:
            socket.create_connection((parts.hostname, parts.port or _PORTS[scheme]), _SERVER_S).close()
    except OSError as error:
        return warn(f"no answer from {shown} within {_SERVER_S:g} s ({error})", later)
    return ok(f"{shown} answers")


def _sqlite(path: Path) -> Finding:
    """The state of MLflow's own database in a file."""
    place = _existing(path)
    mount = mount_of(place)
    if mount.is_network:
        return warn(
            f"{path} lies on {mount.kind}, where SQLite databases break when two machines write",
            "give tracking.uri=http://... of a server, or tracking.uri=sqlite:////local/disk/mlflow.db",
        )
    if not path.exists():
        if not os.access(place, os.W_OK):
            return fail(f"{path} cannot be made: {place} is not writable", "give tracking.uri=")
        return ok(f"{path} will be made by the first sync")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)
        ) as database:
            (count,) = database.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        return fail(
            f"{path} cannot be read as MLflow's database: {error}",
            f"move it away; `tokensweep sync --all` makes it again from the runs ({path.name})",
        )
    return ok(f"{path} with {count} runs")


def _health(url: str) -> None:
    """Ask a server how it is; one that refuses to say is there all the same. Raises OSError for none."""
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=_SERVER_S):
        pass


def mount_of(path: Path) -> Mount:
    """The file system that a path is on, from Linux's list."""
    listed = Path("/proc/self/mountinfo")
    return find_mount(path.resolve(), listed.read_text().splitlines() if listed.is_file() else ())


def find_mount(path: Path, lines: Iterable[str]) -> Mount:
    """The last of the longest mount points above ``path``, from lines of ``mountinfo``."""
    best = Mount("/", "unknown", frozenset())
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, own) = before.split(), after.split(maxsplit=2)
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if path.is_relative_to(point) and len(point) >= len(best.point):
            best = Mount(point, kind, frozenset([*fields[5].split(","), *own.split(",")]))
    return best


def _existing(path: Path) -> Path:
    """The path, or the nearest thing above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _group_of(path: Path) -> str:
    try:
        return path.group()
    except KeyError:
        return str(path.stat().st_gid)
