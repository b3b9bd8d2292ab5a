"""Why a job waits: SLURM's words in those of people who did not configure it."""

from __future__ import annotations

_WORDS = {
    "Priority": "others come first",
    "Resources": "no node is free",
    "None": "SLURM has not looked at it yet",
    "BeginTime": "was put back, starts again in a minute or two",
    "JobArrayTaskLimit": "as many work at a time as jobs= or max_parallel allows",
    "JobHeldUser": "held by you: scontrol release JOB",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held after too many restarts: scontrol release JOB",
    "DependencyNeverSatisfied": "what it waits for has failed",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is closed",
    "PartitionTimeLimit": "asks for more time than the partition gives, never starts",
    "PartitionNodeLimit": "asks for more nodes than the partition gives, never starts",
    "PartitionConfig": "asks for what the partition does not have, never starts",
    "BadConstraints": "asks for what no node has, never starts",
    "ReqNodeNotAvail": "its nodes are down, drained or reserved",
    "NodeDown": "its node is down",
    "Reservation": "waits for its reservation",
    "Licenses": "waits for licences",
}
_LIMITS = ("QOS", "Assoc", "MaxMemPerLimit")  # beginnings of words such as QOSMaxJobsPerUserLimit


def in_words(reason: str, *, stage: str) -> str:
    """Why a run waits; ``reason`` is SLURM's word, or already ours.

    SLURM's word follows in brackets where it is what an administrator would ask for.
    """
    word = reason.partition(",")[0].strip()  # of "ReqNodeNotAvail, UnavailableNodes:gpu1"
    if word == "Dependency":
        return "waits for its training" if stage == "evaluate" else "waits for its turn"
    if word.startswith(_LIMITS):
        return f"a limit of your account or QoS is reached ({word})"
    if word in _WORDS:
        return f"{_WORDS[word]} ({word})"
    return reason or "no reason given"
