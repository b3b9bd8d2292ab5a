"""What SLURM's queue and its accounting tell about a task, read from their output and made one answer.

The queue (``squeue``) is right about what lives, and forgets what has ended after ``MinJobAge``, five minutes
by default. The accounting (``sacct``) remembers, but learns of a start or an end a second or more later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

# Long words of `squeue --states=all` for a job that has left its node for good. Every other word lives.
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
QUEUE_FIELDS = (
    *("ArrayJobID", "ArrayTaskID", "Name", "State", "Reason", "NodeList", "exit_code", "RestartCnt"),
    *("SubmitTime", "StartTime", "EndTime", "TimeUsed", "TimeLeft"),
)
ACCOUNTING_FIELDS = (
    *("JobID", "JobName", "State", "ExitCode", "NodeList", "Submit", "Start", "End"),
    "ElapsedRaw",
)
_JOB_ID = re.compile(r"(?P<job>\d+)(?:_(?:(?P<task>\d+)|\[(?P<range>[\d,\-:]+)(?:%\d+)?\]))?")
_NO_NODE = ("", "None assigned", "(null)", "N/A")
_NO_REASON = ("", "None", "(null)", "N/A")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A task of an array, or a job that is none, and its last attempt. Times are seconds since the epoch."""

    name: str
    key: str  # <array job>_<task>, or <job>
    task: int | None  # index in the array
    state: str  # SLURM's long word, such as PENDING, RUNNING, COMPLETED, CANCELLED, NODE_FAIL
    alive: bool  # in the queue: waits, runs, ends just now, or will start again
    reason: str = ""  # why it waits, in SLURM's word: Priority, Dependency, BeginTime, JobHeldUser, ...
    node: str = ""  # or several in SLURM's notation
    exit_code: int | None = None  # of an ended attempt
    signal: int | None = None  # that ended the attempt, None for none
    restarts: int = 0  # attempts before this one
    earlier: tuple[str, ...] = ()  # how those ended, oldest first; may lack the newest for some seconds
    submit: float | None = None  # of this attempt: a requeued one is submitted when it is requeued
    start: float | None = None  # expected, while it waits
    end: float | None = None
    elapsed_s: int = 0
    time_left_s: int | None = None  # of the time limit; None when unlimited or ended


def state_of(states: Mapping[str, JobState], *, job_id: str, task: int | None) -> JobState | None:
    """What is known of a task of ``job_id`` (``task`` None for a job that is no array), None when nothing is.

    SLURM writes no row for array tasks that are cancelled together before they start, only one for the job.
    """
    if task is None:
        return states.get(job_id)
    whole = states.get(job_id)
    return states.get(f"{job_id}_{task}") or (whole if whole is not None and not whole.alive else None)


def read_queue(text: str, *, names: Collection[str]) -> dict[str, JobState]:
    """States by key from ``squeue --array --states=all`` with QUEUE_FIELDS, each closed by ``|``.

    Raises ValueError for a line that is none of these.
    """
    found = {}
    for row in _rows(text, QUEUE_FIELDS, closed=True):
        if row["Name"] not in names:
            continue
        task = int(row["ArrayTaskID"]) if row["ArrayTaskID"].isdecimal() else None
        key = row["ArrayJobID"] if task is None else f"{row['ArrayJobID']}_{task}"
        word = row["State"]
        alive = word not in ENDED
        exit_code, by_signal = _wait_status(row["exit_code"])
        found[key] = JobState(
            name=row["Name"],
            key=key,
            task=task,
            state=word,
            alive=alive,
            reason=_or_empty(row["Reason"], _NO_REASON),
            node=_or_empty(row["NodeList"], _NO_NODE),
            exit_code=None if alive else exit_code,
            signal=None if alive else by_signal,
            restarts=int(row["RestartCnt"]),
            submit=_time(row["SubmitTime"]),
            start=_time(row["StartTime"]),
            end=None if alive else _time(row["EndTime"]),
            elapsed_s=duration_s(row["TimeUsed"]) or 0,
            time_left_s=duration_s(row["TimeLeft"]) if alive else None,
        )
    return found


def read_accounting(text: str, *, names: Collection[str]) -> dict[str, JobState]:
    """The last attempt of each task by key from ``sacct --duplicates`` with ACCOUNTING_FIELDS.

    ``alive`` says what the accounting believes. Raises ValueError for a line that is not understood.
    """
    attempts: dict[str, list[JobState]] = {}
    together: dict[str, JobState] = {}  # tasks that one row tells of, with no row of their own yet
    for row in _rows(text, ACCOUNTING_FIELDS, closed=False):
        if row["JobName"] not in names:
            continue
        match = _JOB_ID.fullmatch(row["JobID"])
        if match is None:
            raise ValueError(f"JobID must look like 12, 12_3 or 12_[0-3,5], got {row['JobID']!r}")
        if match["range"] is None:
            state = _accounted(row, key=row["JobID"], task=int(match["task"]) if match["task"] else None)
            attempts.setdefault(state.key, []).append(state)
        else:
            for task in expand(match["range"]):
                key = f"{match['job']}_{task}"
                together[key] = _accounted(row, key=key, task=task)
    return together | {key: _last(states) for key, states in attempts.items()}


def merge(queue: Mapping[str, JobState], accounting: Mapping[str, JobState]) -> dict[str, JobState]:
    """One state per task. The queue wins where it knows a task.

    What lives according to the accounting alone is left out: the queue would know it.
    """
    merged = {key: state for key, state in accounting.items() if not state.alive}
    for key, state in queue.items():
        known = accounting.get(key)
        merged[key] = replace(state, earlier=_earlier(state, known)) if known else state
    return merged


def _earlier(queued: JobState, known: JobState) -> tuple[str, ...]:
    """How the attempts before the queue's ended, as far as the accounting knows."""
    is_same = known.start is not None and known.start == queued.start
    ended = not is_same and known.state in ENDED | {"REQUEUED"}
    return (*known.earlier, *([known.state] if ended else []))[: queued.restarts]


def _last(attempts: list[JobState]) -> JobState:
    """The last attempt with the ends of those before it."""
    attempts = sorted(attempts, key=lambda attempt: attempt.submit or 0.0)
    return replace(
        attempts[-1],
        restarts=len(attempts) - 1,
        earlier=tuple(attempt.state for attempt in attempts[:-1]),
    )


def _accounted(row: Mapping[str, str], *, key: str, task: int | None) -> JobState:
    word = row["State"].split()[0]  # of "CANCELLED by 1000"
    alive = word not in ENDED  # REQUEUED ends an attempt, but not the task
    code, _, by_signal = row["ExitCode"].partition(":")
    return JobState(
        name=row["JobName"],
        key=key,
        task=task,
        state=word,
        alive=alive,
        node=_or_empty(row["NodeList"], _NO_NODE),
        exit_code=int(code) if code and not alive else None,
        signal=int(by_signal) or None if by_signal and not alive else None,
        submit=_time(row["Submit"]),
        start=_time(row["Start"]),
        end=_time(row["End"]),
        elapsed_s=int(row["ElapsedRaw"] or 0),
    )


def expand(indices: str) -> Iterator[int]:
    """The task indices of SLURM's notation: ``0-6:2,9`` is 0, 2, 4, 6 and 9."""
    for part in indices.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def duration_s(text: str) -> int | None:
    """Seconds of SLURM's ``[days-]hours:minutes:seconds`` or ``minutes:seconds``; None for its words."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]) or len(parts) > 3:
        return None  # UNLIMITED, INVALID, NOT_SET, infinite, N/A
    if dash:  # 1-12 is a day and twelve hours
        parts += ["0"] * (3 - len(parts))
    elif len(parts) == 1:  # 90 is ninety minutes
        parts += ["0"]
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 86400 + seconds


def _rows(text: str, fields: tuple[str, ...], *, closed: bool) -> Iterator[dict[str, str]]:
    """Lines as dictionaries; ``closed`` where a ``|`` also ends the last field."""
    for line in text.splitlines():
        values = [value.strip() for value in line.split("|")]
        if closed and values[-1:] == [""]:
            values.pop()
        if len(values) != len(fields):
            raise ValueError(f"a line must have the {len(fields)} fields {', '.join(fields)}, got {line!r}")
        yield dict(zip(fields, values, strict=True))


def _wait_status(text: str) -> tuple[int | None, int | None]:
    """Exit code and signal of a wait status such as 768 (exit 3) or 9 (SIGKILL), or of ``3:0``."""
    code, colon, by_signal = text.partition(":")
    if not code.isdecimal():
        return None, None
    if colon:
        return int(code), int(by_signal) or None
    status = int(code)
    return status >> 8 & 0xFF, status & 0x7F or None


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() and text != "0" else None


def _or_empty(text: str, nothing: Collection[str]) -> str:
    return "" if text in nothing else text
