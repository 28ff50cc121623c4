"""A server that writes when it reached the stages between a node's announcement and the notifications.

``python -m benchmarks.timed_server FILE`` runs ``electrumx_server``; when it ends, the file has a line
of each stage reached: its name, and the time by ``perf_counter``, which all processes share.
"""

import asyncio
import atexit
import inspect
import sys
import time
from functools import wraps
from pathlib import Path

from electrumx.cli.start import main
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.prefetcher import Prefetcher
from electrumx.server.block_processor.tip_reporter import TipReporter
from electrumx.server.daemon.client import Daemon
from electrumx.server.db.flusher import Flusher
from electrumx.server.mempool.block_steps import BlockSteps
from electrumx.server.notifications import Notifications
from electrumx.server.session.notifier import Notifier
from electrumx.server.session.notify.fanout import FanOut
from electrumx.server.session.notify.outpoints import OutpointSubscriptions

# Of each: the class, its method, and the stages that its beginning and its end are
STAGES = [
    (Daemon, "notify_tip", "announced", None),
    (Prefetcher, "_take", "block fetched", None),
    (ChainState, "advance_blocks", "block parsed", "indexed"),
    (ChainState, "step_of", None, "step made"),
    (Flusher, "write_files", None, "files written"),
    (Flusher, "write_history", None, "history written"),
    (Flusher, "write_utxos", None, "UTXOs written"),
    (TipReporter, "check", "flush has ended", None),
    (Notifications, "on_block", "tip reported", None),
    (BlockSteps, "_make_step", "mempool begins its step", None),
    (Notifications, "on_mempool", "mempool at the tip", None),
    (Notifier, "notify", "round begins", "round over"),
    (FanOut, "notify", None, "header sent"),
    (OutpointSubscriptions, "tell", "outpoint round begins", "outpoint round over"),
]


def timed(method, begins, ends, marks):
    """A method that also notes the stages that its beginning and its end are."""

    def mark(stage):
        if stage is not None:
            marks.append((stage, time.perf_counter()))

    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def wrapper(*args, **kwargs):
            mark(begins)
            result = await method(*args, **kwargs)
            mark(ends)
            return result

    else:

        @wraps(method)
        def wrapper(*args, **kwargs):
            mark(begins)
            result = method(*args, **kwargs)
            mark(ends)
            return result

    return wrapper


def note_stages(path):
    """Note the stages, in a file that is written when the process ends."""
    marks = []
    to_thread = asyncio.to_thread

    async def timed_to_thread(func, *args, **kwargs):
        name = getattr(func, "__qualname__", "")
        result = await to_thread(func, *args, **kwargs)
        if name == "BlockChanges.of_step":
            marks.append(("changes of outpoints read", time.perf_counter()))
        return result

    asyncio.to_thread = timed_to_thread
    for owner, name, begins, ends in STAGES:
        setattr(owner, name, timed(getattr(owner, name), begins, ends, marks))

    def write():
        path.write_text("".join(f"{at!r} {stage}\n" for stage, at in marks))

    atexit.register(write)


if __name__ == "__main__":
    note_stages(Path(sys.argv.pop(1)))
    sys.exit(main())
