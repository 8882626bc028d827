"""Start several processes of a training on this machine, as torchrun does, and wait for them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tellapart.backbones.ranks import STARTED, lost_in_words
from tellapart.data.pixels import usable_cores
from tellapart.errors import MissingExtra, RankLost

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# How long a process may take to stop in order before it is killed.
STOPPING_S = 30


def start_processes(n: int, arguments: Sequence[str]) -> int:
    """Run `tellapart` with these arguments in n processes that train together; return their code.

    What they print is printed, which is what the first of them does. Of those that failed, the one
    that said why gives the code.

    Raises:
        RankLost: one was killed. KeyboardInterrupt: this one was to stop; they have. MissingExtra.
    """
    try:
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    except ImportError as error:
        raise MissingExtra(
            "Several processes need PyTorch, which is not installed. Nothing was trained. Install "
            "it with: pip install 'tellapart[train]', or leave --processes out."
        ) from error
    os.environ[STARTED] = "1"
    # Else each would take all cores for what numpy and torch do; rank 0 solves while others wait.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=STOPPING_S,
    )
    # What its loggers say, each with a level of its own, is said in one paragraph instead.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", "tellapart", *arguments)
    except ChildFailedError as error:
        return _code(error.failures)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        sys.exit(128 + error.sigval)
    finally:
        logging.disable(before)
    return 0


def _code(failures: Mapping[int, ProcessFailure]) -> int:
    """Choose among the codes of processes that failed.

    Raises:
        RankLost: none of them had a word of its own; those that were killed are named.
    """
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    spoken = [code for code in codes.values() if code > 0 and code != RankLost.exit_code]
    if spoken:
        return spoken[0]
    # The others were ended because of them.
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    gone = killed or {rank: -code for rank, code in codes.items() if code < 0}
    how = {f"by {signal.Signals(number).name}" for number in gone.values()}
    words = f" ({', '.join(sorted(how))})" if how else ""
    raise RankLost(lost_in_words([str(rank) for rank in sorted(gone)], words))
