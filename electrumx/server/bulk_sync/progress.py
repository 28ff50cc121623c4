"""How far a bulk sync is: for the log, LocalRPC and the service manager.

Owns the times.  Runs in: the event loop during the scan, the merging thread after it.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from electrumx.lib import util
from electrumx.server.runs.manifest import SCAN


class Progress(NamedTuple):
    """How far a bulk sync is."""

    #: scan, join, utxos, undo, history or swap
    phase: str
    #: of the phase
    percent: float
    #: of the block added last
    height: int
    #: seconds of the phase that are left, about; None if unknown
    eta: float | None

    def __str__(self) -> str:
        return f"{self.phase} {self.percent:.1f}%, height {self.height:,d}"

    def summary(self) -> dict[str, str | int | float | None]:
        """Return the values that an operator is shown."""
        return {
            "phase": self.phase,
            "percent": round(self.percent, 1),
            "height": self.height,
            "eta": None if self.eta is None else util.formatted_time(self.eta),
        }


class ProgressLog:
    """Notes progress, and logs it every LOG_SECS, and the time of each phase."""

    LOG_SECS = 10.0

    def __init__(self, logger: logging.Logger, temporary_bytes: Callable[[], int]):
        """``temporary_bytes`` returns the disk that run files take."""
        self._logger = logger
        self._temporary_bytes = temporary_bytes
        self.now = Progress(SCAN, 0.0, -1, None)
        self._next_log = time.monotonic() + self.LOG_SECS
        #: when the phase began, and its progress then: transactions, or a part of the whole
        self._began = time.monotonic()
        self._first = 0.0

    def begin(self, phase: str, height: int, done: float) -> None:
        """Begin a phase, or go on with one."""
        self.now = Progress(phase, self.now.percent, height, None)
        self._began, self._first = time.monotonic(), done

    def scanned(self, height: int, tx_count: int, txs_left: float, daemon_height: int) -> None:
        """Note how far the scan is."""
        rate = (tx_count - self._first) / max(time.monotonic() - self._began, 0.001)
        percent = 100 * tx_count / max(tx_count + txs_left, 1)
        self.now = Progress(SCAN, percent, height, txs_left / rate if rate > 0 else None)
        self._log_if_due(f"  height {height:,d} of {daemon_height:,d}  {rate:,.0f} tx/s")

    def scan_ended(self, runs: int) -> None:
        """Note that everything is in runs."""
        plural = "" if runs == 1 else "s"
        self._log_time(f" {self.now.height + 1:,d} blocks, {runs:,d} run{plural},")

    def merged(self, phase: str, part: float) -> None:
        """Note the completed part of a phase of the merge."""
        if phase != self.now.phase:
            # It began when the one before it ended.
            self._first = 0.0
        elapsed = time.monotonic() - self._began
        done = part - self._first
        eta = elapsed * (1 - part) / done if done > 0 else None
        self.now = Progress(phase, 100 * part, self.now.height, eta)
        self._log_if_due("")
        if part >= 1:
            self._log_time("")

    def _log_time(self, what: str) -> None:
        now = time.monotonic()
        self._logger.info(
            f"bulk sync: {self.now.phase} took {now - self._began:.1f}s,{what} temporary files "
            f"{self._temporary_megabytes()}"
        )
        # The next one begins here, however long its first part takes.
        self._began = now

    def _log_if_due(self, details: str) -> None:
        now = time.monotonic()
        if now < self._next_log:
            return
        self._next_log = now + self.LOG_SECS
        eta = "" if self.now.eta is None else f"  ETA {util.formatted_time(self.now.eta)}"
        self._logger.info(
            f"bulk sync: {self.now.phase} {self.now.percent:.1f}%{details}{eta}  temporary files "
            f"{self._temporary_megabytes()}"
        )

    def _temporary_megabytes(self) -> str:
        return f"{self._temporary_bytes() / 1_000_000:,.0f} MB"
