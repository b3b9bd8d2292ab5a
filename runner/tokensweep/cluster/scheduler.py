"""Asks SLURM's own commands what became of jobs, what the cluster allows, and tells it to stop or requeue.

Needs no daemon of its own and keeps no state: every answer is SLURM's of now, or a SlurmError.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tokensweep.cluster.jobstate import (
    ACCOUNTING_FIELDS,
    QUEUE_FIELDS,
    JobState,
    duration_s,
    merge,
    read_accounting,
    read_queue,
)

_TIMEOUT_S = 30.0  # without slurm.conf, SLURM's commands try for a minute before they complain
_MAX_ARGUMENT = 100_000  # characters of one argument; Linux takes 131,072
_HISTORY_S = 90 * 86400.0
# Every state, as sacct's codes: without them it hides jobs that were cancelled before they could start.
_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,S,TO"
# Variables that are a person's taste in columns and filters, or of a job that asks from within.
_NOT_PASSED_ON = ("SACCT_", "SBATCH_", "SCONTROL_", "SINFO_", "SLURM_", "SQUEUE_")
_SEE_CONF = "try `sinfo`; is slurmctld up, and SLURM_CONF unset or right?"


class SlurmError(ValueError):
    """A command of SLURM's did not answer, or not with what was asked for: the truth is not known now."""


class RefusedError(SlurmError):
    """A command complained; ``complaint`` is what it said."""

    def __init__(self, message: str, complaint: str) -> None:
        super().__init__(message, complaint)  # both, as pickle calls with what is here
        self.complaint = complaint

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may be submitted. Jobs count like array tasks."""

    max_array_size: int  # indices of an array go up to one less
    max_array_tasks: int  # in one array
    max_jobs: int  # in the whole cluster's queue
    max_submit: int | None  # in the user's queue; None when unlimited or when nobody counts
    queued: int  # of the user, now

    @property
    def room(self) -> int:
        """Jobs and tasks that can be submitted now, as far as the user's own count."""
        return max(0, (self.max_jobs if self.max_submit is None else self.max_submit) - self.queued)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition as ``sinfo`` tells it."""

    name: str
    is_default: bool
    is_up: bool
    time_limit_s: int | None  # None when unlimited
    gres: tuple[str, ...]  # kinds of its nodes, such as gpu:a100:4(S:0-1)
    nodes: Mapping[str, int] = field(default_factory=dict)  # how many are idle, mixed, drained*, ...


class Scheduler:
    """SLURM as the user of this process sees it; ``SLURM_CONF`` names another cluster's configuration.

    Every method raises SlurmError when a command is missing, complains, or gives no answer in time.
    """

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.timeout_s = timeout_s  # for one command

    def jobs(self, names: Iterable[str], *, since: float | None = None) -> dict[str, JobState]:
        """Every task of the jobs with these names by ``<array job>_<task>``, or ``<job>`` for no array.

        Asks squeue and sacct once each, for however many tasks. ``since`` (epoch seconds) is when the first
        was submitted, 90 days ago when left out: what had ended before is not found.

        A task that neither knows is absent, which says nothing about it: sacct learns of an end a second or
        more after squeue has forgotten it, and of a task that is cancelled alone before it starts never.
        See also :func:`tokensweep.cluster.jobstate.state_of`.
        """
        wanted = sorted(set(names))
        start = time.gmtime((time.time() - _HISTORY_S if since is None else since) - 60)  # clocks differ
        merged: dict[str, JobState] = {}
        for chunk in _chunks(wanted):
            listed = f"--name={','.join(chunk)}"
            # The accounting first: what ends in between is then still found in the queue.
            told = self._ask(
                *("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", listed),
                *(f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', start)}", "--endtime=now+1days"),
                *(f"--state={_STATES}", f"--format={','.join(ACCOUNTING_FIELDS)}"),
            )
            columns = ",".join(f"{name}:|" for name in QUEUE_FIELDS)
            queue = self._ask(
                *("squeue", "--me", "--array", "--noheader", "--states=all", listed, f"--Format={columns}"),
            )
            try:
                merged |= merge(read_queue(queue, names=chunk), read_accounting(told, names=chunk))
            except ValueError as error:
                raise SlurmError(f"squeue or sacct printed what is not understood: {error}") from error
        return merged

    def limits(
        self, *, account: str | None = None, qos: str | None = None, partition: str | None = None
    ) -> Limits:
        """What the cluster allows, with the tightest MaxSubmitJobs of the user's association and QoS.

        ``account`` and ``qos`` None are the user's defaults. Limits that several users share are left out:
        how much of them is free is not for one user to know.
        """
        config = self._config()
        size = int(config["MaxArraySize"])
        tasks = re.search(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
        counts = "limits" in config.get("AccountingStorageEnforce", "").split(",")
        queue = self._ask("squeue", "--me", "--array", "--noheader", "--format=%i")
        return Limits(
            max_array_size=size,
            max_array_tasks=min(size, int(tasks[1])) if tasks else size,
            max_jobs=int(config["MaxJobCount"]),
            max_submit=self._max_submit(config["ClusterName"], account, qos, partition) if counts else None,
            queued=len(queue.split()),
        )

    def accounts(self) -> dict[str, tuple[str, ...]]:
        """The accounts that the user may submit to, and the QoS of each, the default first."""
        rows = self._associations(self._config()["ClusterName"])
        found: dict[str, tuple[str, ...]] = {}
        for row in rows:
            qos = [word for word in (row["defaultqos"], *row["qos"].split(",")) if word]
            found[row["account"]] = tuple(dict.fromkeys([*found.get(row["account"], ()), *qos]))
        return found

    def partitions(self) -> dict[str, Partition]:
        """All partitions by name, hidden ones too."""
        found: dict[str, Partition] = {}
        for line in self._ask("sinfo", "--all", "--noheader", "--format=%P|%a|%l|%G|%T|%D").splitlines():
            name, up, limit, gres, state, count = self._split(line, 6)
            known = found.get(name.rstrip("*"))
            nodes = dict(known.nodes) if known else {}
            nodes[state] = nodes.get(state, 0) + int(count)
            kinds = {*(known.gres if known else ()), *([] if gres in ("", "(null)") else [gres])}
            found[name.rstrip("*")] = Partition(
                name=name.rstrip("*"),
                is_default=name.endswith("*"),
                is_up=up == "up",
                time_limit_s=duration_s(limit),
                gres=tuple(sorted(kinds)),
                nodes=nodes,
            )
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs, or tasks such as ``12_3``. One that has ended, or that nobody knows, is no error."""
        for chunk in _chunks(job_ids):
            self._ask("scancel", "--quiet", *chunk)

    def requeue(self, job_id: str) -> None:
        """Stop a job or task and put it back into the queue; SLURM lets it wait two minutes by default."""
        self._ask("scontrol", "requeue", job_id)

    def refusal(self, options: Sequence[str]) -> str:
        """Why SLURM would refuse a job with these options of sbatch, empty if it would take it.

        It takes jobs that can never start, too, such as those above a partition's time limit.
        """
        try:
            self._ask("sbatch", "--test-only", *options, "--wrap=true")
        except RefusedError as refusal:
            return refusal.complaint
        return ""

    def version(self) -> str:
        """SLURM's version, such as ``22.05.8``; asks no daemon."""
        return self._ask("sinfo", "--version").split()[-1]

    def _config(self) -> dict[str, str]:
        """What slurmctld is configured with, by key."""
        lines = self._ask("scontrol", "show", "config").splitlines()
        config = {
            key.strip(): value.strip() for key, equals, value in (x.partition("=") for x in lines) if equals
        }
        for key in ("ClusterName", "MaxArraySize", "MaxJobCount"):
            if key not in config:
                raise SlurmError(f"scontrol show config must name {key}, but prints: {_brief(lines)}")
        return config

    def _associations(self, cluster: str) -> list[dict[str, str]]:
        """The user's rows of the accounting: who may submit where, and how much."""
        keys = ("account", "partition", "maxsubmitjobs", "defaultqos", "qos")
        told = self._account_manager(
            *("assoc", "where", f"user={_user()}", f"cluster={cluster}", f"format={','.join(keys)}")
        )
        return [dict(zip(keys, self._split(line, len(keys)), strict=True)) for line in told.splitlines()]

    def _account_manager(self, *what: str) -> str:
        """What ``sacctmgr show`` prints of something, ``|`` between fields."""
        return self._ask("sacctmgr", "--noheader", "--parsable2", "show", *what)

    def _max_submit(
        self, cluster: str, account: str | None, qos: str | None, partition: str | None
    ) -> int | None:
        """The tightest limit on the user's jobs in the queue, None for none."""
        rows = self._associations(cluster)
        if account is None:
            account = self._account_manager("user", _user(), "format=defaultaccount").strip()
        rows = [
            row for row in rows if row["account"] == account and row["partition"] in ("", partition or "")
        ]
        used = qos or _default_qos(rows)
        told = self._account_manager("qos", "format=name,maxsubmitjobsperuser")
        of_qos = dict(self._split(line, 2) for line in told.splitlines()).get(used, "")
        given = [text for text in (*(row["maxsubmitjobs"] for row in rows), of_qos) if text.isdecimal()]
        return min(map(int, given), default=None)

    def _split(self, line: str, number: int) -> list[str]:
        values = [value.strip() for value in line.split("|")]
        if len(values) != number:
            raise SlurmError(f"a line of SLURM's must have {number} fields, got {line!r}")
        return values

    def _ask(self, *command: str) -> str:
        """What a command prints."""
        try:
            done = subprocess.run(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise SlurmError(
                f"{command[0]} is not installed here: SLURM's commands are found on a cluster's login nodes, "
                "or after `module load slurm`"
            ) from None
        except subprocess.TimeoutExpired:
            raise SlurmError(
                f"no answer within {self.timeout_s:g} s from {_shown(command)}: {_SEE_CONF}"
            ) from None
        except OSError as error:
            raise SlurmError(f"{command[0]} cannot be started: {error}") from error
        if done.returncode != 0:
            complaint = _brief((done.stderr.strip() or done.stdout.strip()).splitlines())
            told = (
                f"{_shown(command)} failed with {done.returncode}: {complaint or 'no message'} ({_SEE_CONF})"
            )
            raise RefusedError(told, complaint or "no message")
        return done.stdout


def _default_qos(rows: Sequence[Mapping[str, str]]) -> str:
    """The QoS of a job that names none, as SLURM chooses it."""
    for row in rows:
        words = row["qos"].split(",")
        if row["defaultqos"] or len(words) == 1:
            return row["defaultqos"] or words[0]
    return "normal"


def _environment() -> dict[str, str]:
    """This process's, without what changes how SLURM's commands answer."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not key.startswith(_NOT_PASSED_ON)
    }
    # Times come as epoch seconds and are given in UTC; lists of array tasks at full length.
    return kept | {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC0", "SLURM_BITSTR_LEN": "0"}


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SlurmError(f"SLURM knows users by name, and user {os.geteuid()} has none") from None


def _chunks(words: Sequence[str]) -> Iterator[list[str]]:
    """The words in pieces that each fit a command line."""
    chunk: list[str] = []
    length = 0
    for word in words:
        if chunk and length + len(word) + 1 > _MAX_ARGUMENT:
            yield chunk
            chunk, length = [], 0
        chunk.append(word)
        length += len(word) + 1
    if chunk:
        yield chunk


def _shown(command: Sequence[str]) -> str:
    text = shlex.join(command)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _brief(lines: Sequence[str]) -> str:
    """The last lines of a complaint: the first ones tell of retries."""
    return "; ".join(line.strip() for line in lines[-3:])[-600:]
