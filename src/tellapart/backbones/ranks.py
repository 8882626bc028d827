"""Several processes that train together: who does what, and how they tell each other.

torchrun starts them and gives each a number, its rank; all run the same program. What one of them
decides alone (a clock, a file, a solution) it tells the others, so that all take the same way.
Lightning Fabric and torch.distributed connect them; without other processes torch is not needed.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tellapart import errors
from tellapart.data.pixels import available_cores
from tellapart.errors import NotForRanks, RankLost, RanksDisagree, TellapartError
from tellapart.files import cache_folder

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Set where `train --processes` started the ranks: it says itself which of them were killed, and
# that all were stopped by Ctrl-C.
STARTED = "TELLAPART_STARTED"
STOPPED = 130
# One that died is noticed at once; this long a slow one is waited for, as while rank 0 solves.
PATIENCE = timedelta(hours=24)
# How long the others have to say that they are still there, once one is lost.
SIGN_IN_S = 1.0
# Rows that are sent at once to where they are put together.
ROWS_AT_ONCE = 8192
# What a process needs besides the part of the pictures that it works on: see docs/ranks.md.
LEAST_MB = 700.0


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them; by default it is alone.

    number: its rank, from 0. size: how many there are.
    homes: for each rank, the first one that works on the same cache folder.
    """

    number: int = 0
    size: int = 1
    homes: tuple[int, ...] = field(default=(0,))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which decides, solves, judges and writes."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    @property
    def first_at_home(self) -> bool:
        """Whether no lower rank works on the same cache folder."""
        return self.homes[self.number] == self.number

    @cached_property
    def n_homes(self) -> int:
        """How many different cache folders there are."""
        return len(set(self.homes))

    # ---- who does what

    def owners(self, digests: Sequence[bytes] | NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return (N,) the rank that computes, and keeps, each picture: its bytes decide.

        The rank with the highest hash of picture and rank (Thaler and Ravishankar 1998): with one
        more rank, only what that one takes over changes hands.
        """
        keys = np.array([int(one[:16], 16) for one in digests], dtype=np.uint64)
        owners = np.zeros(len(keys), dtype=np.int64)
        highest = np.zeros(len(keys), dtype=np.uint64)
        for rank in range(self.size):
            mixed = _mixed(keys ^ _mixed(np.full(1, rank + 1, dtype=np.uint64)))
            owners[mixed > highest] = rank
            highest = np.maximum(mixed, highest)
        return owners

    def own(self, digests: Sequence[bytes] | NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the rows that this rank computes."""
        if self.alone:
            return np.arange(len(digests))
        return np.flatnonzero(self.owners(digests) == self.number)

    def live_part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places in a batch of rows that this rank learns from, any picture of them."""
        return np.arange(self.number, len(rows), self.size)

    def kept_part(
        self, digests: Sequence[bytes]
    ) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the same for what is kept: of what lies in this rank's cache folder, its part.

        digests: of all rows. Those who share a folder share what lies in it evenly.
        """
        if self.n_homes == 1:
            return self.live_part
        home = self.homes[self.number]
        lies_at = np.array(self.homes)[self.owners(digests)]
        together = [rank for rank in range(self.size) if self.homes[rank] == home]
        place = together.index(self.number)
        return lambda rows: np.flatnonzero(lies_at[rows] == home)[place :: len(together)]

    # ---- telling each other

    def lead(self, work: Callable[[], T]) -> T | None:
        """Let rank 0 do something; the others get None, and all of them its error."""
        if self.alone:
            return work()
        done, error = None, None
        if self.first:
            try:
                done = work()
            except TellapartError as found:
                error = found
        said = self._broadcast(None if error is None else _as_text(error))
        if said is not None:
            raise error or _from_text(said)
        return done

    def tell(self, work: Callable[[], T]) -> T:
        """Let rank 0 do something, and give what came of it, or its error, to all."""
        done = self.lead(work)
        if self.alone:
            return done  # type: ignore[return-value]
        told: T = self._broadcast(done)
        # Its own is not a copy of it.
        return done if self.first else told  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return what each rank has, in their order."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with _talking(self):
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all have come this far."""
        self.gather(None)

    def whole(
        self, part: NDArray[Any], rows: NDArray[np.int64], n: int, everywhere: bool = False
    ) -> NDArray[Any]:
        """Put (n, ...) together from what each rank has of its rows; those of none are zero.

        everywhere: on all ranks; otherwise the others get (n, 0).
        """
        if self.alone and len(rows) == n:
            return part
        facts = self.gather((len(part), part.shape[1:], part.dtype.str))
        shape, kind = next((one[1:] for one in facts if one[0]), ((0,), part.dtype.str))
        at_hand = self.first or everywhere
        values = np.zeros((n, *shape) if at_hand else (n, 0), dtype=kind)
        for start in range(0, n, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, n)
            some = np.zeros((stop - start, *shape), dtype=kind)
            here = (rows >= start) & (rows < stop)
            if len(part):
                some[rows[here] - start] = part[here]
            self._add_bytes(some)
            if at_hand:
                values[start:stop] = some
        return values

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their sums over the ranks, the same bits on each."""
        if self.alone or not tensors:
            return
        import torch
        import torch.distributed as dist

        flat = torch.cat([one.detach().reshape(-1) for one in tensors])
        with _talking(self):
            dist.all_reduce(flat)
        sizes = [one.numel() for one in tensors]
        for one, summed in zip(tensors, torch.split(flat, sizes), strict=True):
            one.copy_(summed.view_as(one))

    def sums(self, *values: float) -> tuple[float, ...]:
        """Return the sums of numbers over the ranks."""
        if self.alone:
            return values
        import torch

        summed = torch.tensor(values, dtype=torch.float64)
        self.add_up([summed])
        return tuple(summed.tolist())

    def _add_bytes(self, values: NDArray[Any]) -> None:
        """Add arrays of which at most one is not zero at each place: byte by byte it is exact."""
        if self.alone or not values.size:
            return
        import torch
        import torch.distributed as dist

        with _talking(self):
            dist.all_reduce(torch.from_numpy(values.view(np.uint8).reshape(-1)))

    def _broadcast(self, value: Any) -> Any:
        import torch.distributed as dist

        told = [value]
        with _talking(self):
            dist.broadcast_object_list(told, src=0)
        return told[0]

    # ---- agreeing

    def meet(self, work: Callable[[], T], facts: Callable[[T], Mapping[str, str]]) -> T:
        """Do the same on all ranks, and make sure that they found the same.

        Of those who share a cache folder the first does it before the others, who find what it
        kept. facts: what must be the same everywhere, in words, by name.

        Raises:
            RanksDisagree: with all differences at once. An error that all had alike is raised
            as it is.
        """
        if self.alone:
            return work()
        done: T | None = None
        error: TellapartError | None = None
        for turn in (True, False):
            if self.first_at_home is turn:
                try:
                    done = work()
                except TellapartError as found:
                    error = found
            self.wait()
        said = self.gather(None if error is None else str(error))
        if error is not None and len(set(said)) == 1:
            raise error
        if any(said):
            raise RanksDisagree(_unlike({f"rank {n}": text for n, text in enumerate(said) if text}))
        if done is None:
            raise RankLost("A rank found nothing, and no error.")
        found_by = self.gather(dict(facts(done)))
        differences = {
            name: found_by
            for name in dict.fromkeys(name for found in found_by for name in found)
            if len({found.get(name) for found in found_by}) > 1
        }
        if differences:
            raise RanksDisagree(_differences(differences))
        return done


ALONE = Ranks()


def in_ranks() -> bool:
    """Tell whether torchrun started this process along with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Tell whether this process is rank 0, or alone."""
    return not in_ranks() or os.environ["RANK"] == "0"


def open_ranks(device: str) -> Ranks:
    """Join the other processes of this training; alone where torchrun started none.

    Raises:
        NotForRanks: more processes than GPUs, less memory than they need, or machines that
        started unlike numbers of them. RankLost.
    """
    if not in_ranks():
        return ALONE
    size, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    alike = Ranks(int(os.environ["RANK"]), size, (0,) * size)
    _check_machine(device, size, here)
    _connect(device, size, here, alike)
    short = [
        f"rank {rank} has {mb:,.0f} MB"
        for rank, mb in enumerate(alike.gather((free_mb() or float("inf")) / here))
        if mb < LEAST_MB
    ]
    if short:
        raise NotForRanks(
            f"{size} processes train together, and each needs about {LEAST_MB:,.0f} MB of memory "
            f"besides its pictures: {', '.join(short)} left. Nothing was trained. Start fewer "
            f"processes on these machines."
        )
    return replace(alike, homes=_homes(alike))


def _check_machine(device: str, size: int, here: int) -> None:
    """Refuse what could not work, before the processes are joined: all find the same."""
    if size % here:
        raise NotForRanks(
            f"This machine started {here} of {size} processes, so others started another number. "
            f"Expected was the same number on each. Nothing was trained. Give torchrun the same "
            f"--nproc-per-node everywhere."
        )
    if device == "mps":
        raise NotForRanks(
            f"{size} processes cannot share the GPU of a Mac. Nothing was trained. Train with one "
            f"process, or with --device cpu."
        )
    if device == "cuda":
        import torch

        if torch.cuda.device_count() < here:
            raise NotForRanks(
                f"{here} processes were started on a machine with {torch.cuda.device_count()} "
                f"GPUs; each needs one of its own. Nothing was trained. Start fewer processes, or "
                f"train with --device cpu."
            )


def _connect(device: str, size: int, here: int, ranks: Ranks) -> None:
    """Join the process group, once in the life of a process."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, timeout=PATIENCE)
    fabric = Fabric(accelerator=device, devices=here, num_nodes=size // here, strategy=strategy)
    with _talking(ranks):
        fabric.launch()
    atexit.register(_leave)
    torch.set_num_threads(available_cores())
    if threading.current_thread() is threading.main_thread():
        # So torchrun ends the others where one has died: they can say so.
        signal.signal(signal.SIGTERM, lambda *_: _stopped_by_torchrun(ranks))


def fabric_devices(device: str) -> int | list[int]:
    """Return what Fabric shall take of the devices: one, of several GPUs that of this process."""
    return [int(os.environ["LOCAL_RANK"])] if device == "cuda" and in_ranks() else 1


def _leave() -> None:
    import torch.distributed as dist

    with suppress(Exception):
        dist.destroy_process_group()


def _stopped_by_torchrun(ranks: Ranks) -> None:
    raise lost(ranks)


@contextmanager
def _talking(ranks: Ranks) -> Iterator[None]:
    """Turn what the transport says of a rank that is gone into our own error."""
    try:
        yield
    except RuntimeError as error:
        raise lost(ranks, " ".join(str(error).split())[:200]) from error


def lost(ranks: Ranks, why: str = "") -> RankLost:
    """Find out which ranks are gone, and say it.

    The others sign in at the store of torchrun, which outlives them.
    """
    if threading.current_thread() is threading.main_thread():
        # torchrun may have noticed as well, and what is being said needs a second.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gone: list[str] = []
    with suppress(Exception):
        store = _store()
        store.set(f"tellapart/there/{ranks.number}", "yes")
        others = {rank for rank in range(ranks.size) if rank != ranks.number}
        until = time.monotonic() + SIGN_IN_S
        while others and time.monotonic() < until:
            others -= {rank for rank in others if store.check([f"tellapart/there/{rank}"])}
            time.sleep(0.05)
        gone = [str(rank) for rank in sorted(others)]
    return RankLost(lost_in_words(gone, f" ({why})" if why and not gone else ""))


def lost_in_words(gone: Sequence[str], how: str = "") -> str:
    """Say that ranks are gone; how: what is known of it, with a blank before it."""
    who = f"rank {gone[0]}" if len(gone) == 1 else f"ranks {', '.join(gone)}"
    what = f"{who} of this training ended" if gone else "Contact with another rank was lost"
    return (
        f"{what[:1].upper()}{what[1:]}{how} before its work was done, so the others were stopped. "
        f"Expected were all of them to the end; too little memory is the usual reason. What was "
        f"computed is kept, and each whole epoch is. Start the same command again with --resume."
    )


def may_speak(code: int) -> bool:
    """Tell whether this process says why it ends with a code: of several, the first one to ask."""
    if not in_ranks():
        return True
    if STARTED in os.environ and code in (RankLost.exit_code, STOPPED):
        return False
    try:
        return bool(_store().add("tellapart/said", 1) == 1)
    except Exception:  # The store is gone with torchrun: better said twice than not at all.
        return True


def _store() -> Any:
    from torch._C._distributed_c10d import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))


def free_mb() -> float | None:
    """Return the memory that programs can still have here; None where it cannot be told."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024 / 1e6
    except (OSError, KeyError, ValueError):
        return None


def _homes(ranks: Ranks) -> tuple[int, ...]:
    """Find out which ranks work on the same cache folder: each leaves a file, and looks around."""
    name = ranks.tell(lambda: f".ranks-{secrets.token_hex(8)}")
    folder = cache_folder()
    mine = folder / f"{name}-{ranks.number}"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        mine.touch()
    ranks.wait()
    seen = {rank for rank in range(ranks.size) if (folder / f"{name}-{rank}").exists()}
    seen_by = ranks.gather(seen | {ranks.number})
    with suppress(OSError):
        mine.unlink(missing_ok=True)
    homes: list[int] = []
    for rank in range(ranks.size):
        mutual = [other for other in range(rank) if other in seen_by[rank] & set(homes)]
        homes.append(next((one for one in mutual if rank in seen_by[one]), rank))
    return tuple(homes)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix bits: splitmix64 (Steele et al. 2014)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def short_hash(text: str) -> str:
    """Return eight digits that tell texts apart, for people who compare ranks."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _as_text(error: TellapartError) -> tuple[str, str]:
    return type(error).__name__, str(error)


def _from_text(said: tuple[str, str]) -> TellapartError:
    kind = getattr(errors, said[0], TellapartError)
    # Some kinds want more than a message when they are made; to pass it on, that is enough.
    error: TellapartError = kind.__new__(kind, said[1])
    return error


def _unlike(said: Mapping[str, str]) -> str:
    words = " ".join(f"{who}: {text.rstrip(chr(46))}." for who, text in said.items())
    return (
        f"Not all ranks of this training could begin. {words} Expected was that each finds the "
        f"same pictures, weights and programs at the same paths."
    )


def _differences(found: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    lines = []
    for name, by_rank in found.items():
        ranks_of: dict[str, list[str]] = {}
        for rank, facts in enumerate(by_rank):
            ranks_of.setdefault(facts.get(name, "none"), []).append(str(rank))
        said = ", ".join(
            f"{value} (rank{'s' if len(who) > 1 else ''} {', '.join(who)})"
            for value, who in ranks_of.items()
        )
        lines.append(f"{name}: {said}")
    return (
        f"The ranks of this training do not agree. Different are: {'; '.join(lines)}. Expected was "
        f"the same on each. Nothing was trained. Start all with the same command, programs, "
        f"pictures and weights."
    )
