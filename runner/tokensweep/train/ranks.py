"""The ranks of a run: processes that train it together, each with the whole model, optimiser and progress.

They divide rollouts, packs and micro-batches; everything else each of them computes for itself. What decides
a result (seeds, selection, micro-batches) does not know of them, only the order of sums does, so their number
is like that of threads: no part of a run's identity.

:class:`Ranks` is a run's only process, which has nobody to talk to; :func:`joined` gives one of several, by
torch.distributed. They exchange tensors and JSON, no pickles. What they say is not signed: as with torchrun,
the network between the nodes must be trusted.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor

_JOIN_S = (
    600.0  # from the first to the last rank's start; importing torch from a busy file system takes minutes
)
_ANSWER_S = 1800.0  # from one exchange to the next: what a rank does alone, such as a share of the rollouts
BUCKET = 1 << 24  # numbers that are sent at once, 64 MB in float32


class RankLostError(RuntimeError):
    """Another rank is gone or silent; this one cannot go on."""


class RankFailedError(RuntimeError):
    """Another rank failed, with an error of no class that matters here."""


class RanksDifferError(RuntimeError):
    """Ranks that must hold the same weights do not."""


@dataclass(frozen=True)
class Place:
    """A process among the ranks of its run, and where rank 0 waits for the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Self:
        """What torchrun's variables say; a process on its own where WORLD_SIZE is 1 or not set.

        Raises ValueError for variables that are missing or contradict each other.
        """
        if variables.get("WORLD_SIZE", "") in ("", "1"):
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        told = {name: variables.get(name, "") for name in (*names, "MASTER_ADDR")}
        if not all(told[name].isdecimal() for name in names) or not told["MASTER_ADDR"]:
            raise ValueError(
                f"a rank must have the numbers {', '.join(names)} and MASTER_ADDR, got {told}: "
                "unset WORLD_SIZE for one process, or start the ranks by torchrun or by srun with "
                "tokensweep.cluster.rendezvous"
            )
        rank, size, local, port = (int(told[name]) for name in names)
        if rank >= size or local > rank or not 0 < port < 65536:
            raise ValueError(
                f"LOCAL_RANK <= RANK < WORLD_SIZE and a port of 1 to 65535 must hold, got {told}"
            )
        return cls(rank, size, local, told["MASTER_ADDR"], port)


class Ranks:
    """A run's processes as seen from one of them, here from the only one."""

    def __init__(self, *, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, the only one that writes."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """Which of ``count`` things this rank does: neighbours, one more or less than the others have."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run the block on every rank and wait for all; when one fails all raise, each in its place.

        The others raise an error of the same class where that decides what to do about it, else
        RankFailedError. Ranks must not exchange anything inside the block.
        """
        yield

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some rank."""
        return flag

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all ranks, in their order."""
        return [value]

    def first(self, value: Any) -> Any:
        """The JSON value of rank 0."""
        return self.gather(value if self.leads else None)[0]

    def rows(self, x: Tensor) -> list[Tensor]:
        """The tensors [n] of all ranks, in their order; n may differ. On the host."""
        return [x]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all ranks in place of each tensor, the same bits on every rank."""


ALONE = Ranks()


@contextmanager
def joined(
    place: Place, *, name: str, join_s: float = _JOIN_S, answer_s: float = _ANSWER_S
) -> Iterator[Ranks]:
    """The ranks of the run ``name``, once all of them are there.

    Raises RankLostError when some do not come within ``join_s``, ValueError when rank 0 cannot listen at its
    address and port. Inside, a rank that is gone is noticed by the next exchange, one that is silent after
    ``answer_s``: both raise RankLostError.
    """
    if place.size == 1:
        yield ALONE
        return
    import torch.distributed as dist

    if num_gpus := torch.cuda.device_count():
        torch.cuda.set_device(place.local_rank % num_gpus)
    store = _meet(place, name=name, join_s=join_s)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if num_gpus else "gloo",  # nccl: not run on a GPU
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=timedelta(seconds=answer_s),
    )
    yield _Joined(rank=place.rank, size=place.size, answer_s=answer_s)
    dist.destroy_process_group()  # not after an error: it could wait for a rank that is gone


def _meet(place: Place, *, name: str, join_s: float) -> Any:
    """The store of the run, when all ranks have come to it. Another run's ranks see a store of their own."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore  # torch.distributed's, with their types

    patience = timedelta(seconds=join_s)
    where = f"{place.address}:{place.port}"
    try:
        server = TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=_listen(place) if place.rank == 0 else None,
        )
        store = PrefixStore(name, server)
        store.set(f"rank {place.rank}", "here")
    except RuntimeError as error:
        raise RankLostError(
            f"rank {place.rank} could not reach rank 0 at {where} within {join_s:g} s ({error}): look at "
            "what rank 0 printed; a firewall between the nodes must let the port through"
        ) from error
    expected = [f"rank {rank}" for rank in range(place.size)]
    try:
        store.wait(expected, patience)
    except RuntimeError as error:
        missing = [key for key in expected if not store.check([key])]
        raise RankLostError(
            f"all {place.size} ranks must come to {where} within {join_s:g} s, but {', '.join(missing)} did "
            "not: look at their output"
        ) from error
    return store


def _listen(place: Place) -> int:
    """A listening socket at the rendezvous: at its address only, or everywhere where a name is given."""
    try:
        version = ipaddress.ip_address(place.address).version
    except ValueError:
        host, family = "", socket.AF_INET
    else:
        host, family = place.address, socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        return socket.create_server((host, place.port), family=family, backlog=1024).detach()
    except OSError as error:
        raise ValueError(
            f"rank 0 must be able to listen at {place.address}:{place.port}, but {error.strerror}: start the "
            "run again, a new or requeued SLURM job has another port"
        ) from None


class _Joined(Ranks):
    """One of several ranks. Values and host tensors go by gloo, tensors of a GPU by nccl."""

    def __init__(self, *, rank: int, size: int, answer_s: float) -> None:
        super().__init__(rank=rank, size=size)
        self.answer_s = answer_s

    @contextmanager
    def agreed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            with suppress(RankLostError):
                self.gather(_described(error))
            raise
        for rank, told in enumerate(self.gather(None)):
            if told is not None:
                raise _understood(told, rank=rank)

    def any(self, flag: bool) -> bool:
        return any(bool(row) for row in self.rows(torch.tensor([flag])))

    def gather(self, value: Any) -> list[Any]:
        text = json.dumps(value).encode()
        rows = self.rows(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        return [json.loads(row.numpy().tobytes()) for row in rows]

    def rows(self, x: Tensor) -> list[Tensor]:
        import torch.distributed as dist

        with self._answered():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(x)]))
            longest = max(int(size) for size in sizes)
            padded = torch.zeros(max(longest, 1), dtype=x.dtype)
            padded[: len(x)] = x
            rows = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(rows, padded)
        return [row[: int(size)] for row, size in zip(rows, sizes, strict=True)]

    def add(self, tensors: Sequence[Tensor]) -> None:
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([x.detach().flatten() for x in bucket])
            with self._answered():
                dist.all_reduce(flat)
            for x, total in zip(bucket, torch.split(flat, [x.numel() for x in bucket]), strict=True):
                x.detach().copy_(total.view_as(x))

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Explain what torch raises when a rank does not take part in an exchange."""
        try:
            yield
        except RuntimeError as error:
            raise RankLostError(
                f"another rank of this run ended, or was silent for {self.answer_s:g} s: its own output has "
                "the reason; started again, the run goes on from its newest checkpoint (rank "
                f"{self.rank} saw: {error})"
            ) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, some at a time; a large one by itself."""
    bucket: list[Tensor] = []
    for x in tensors:
        if bucket and sum(y.numel() for y in bucket) + x.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(x)
    if bucket:
        yield bucket


def _described(error: Exception) -> dict[str, Any]:
    """An error as a JSON value."""
    names = [kind.__name__ for kind in type(error).__mro__]
    number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    return {"names": names, "number": number, "text": text or str(error) or repr(error)}


def _understood(told: Mapping[str, Any], *, rank: int) -> Exception:
    """The error that another rank described."""
    from tokensweep.train.setup import DataError
    from tokensweep.train.update import NonFiniteError

    text = f"rank {rank}: {told['text']}"
    if told["number"] is not None:
        return OSError(told["number"], text)
    classes: tuple[type[Exception], ...] = (DataError, MemoryError, NonFiniteError, ValueError)
    known = {kind.__name__: kind for kind in classes}
    known["OutOfMemoryError"] = MemoryError  # torch's
    for name in told["names"]:
        if name in known:
            return known[name](text)
    return RankFailedError(f"{text} ({told['names'][0]})")


def check_same_weights(parameters: Sequence[Tensor], *, ranks: Ranks, step: int) -> None:
    """Raise RanksDifferError, on every rank, unless all ranks hold the same bits."""
    if ranks.size == 1:
        return
    rows = ranks.rows(torch.stack([fingerprint(x) for x in parameters]).cpu())
    different = [str(rank) for rank, row in enumerate(rows) if not torch.equal(row, rows[0])]
    if different:
        raise RanksDifferError(
            f"all ranks must hold the same weights, but after step {step} rank {', '.join(different)} has "
            "others than rank 0: take nodes of one kind with one torch, and start the run again; its "
            "checkpoints are of steps after which all were equal"
        )


def fingerprint(x: Tensor) -> Tensor:
    """A number, int64, of the bits of a tensor and of their places; computed where it lies."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for bits in torch.split(x.detach().flatten().view(kind), BUCKET):
        odd = 2 * torch.arange(len(bits), device=x.device) + 1
        total = 31 * total + (bits * odd).sum()
    return total
