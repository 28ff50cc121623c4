"""The file that keeps bans over a restart: ``bans.json`` in DB_DIRECTORY.

A JSON object: ``format`` is 1; ``bans`` is a list of objects with ``network`` (CIDR text), ``since``
and ``until`` (Unix times in seconds; ``until`` is null for a ban without an end).

Each change of a ban replaces it as a whole, durably: a crash leaves the old file or the new
one.  A damaged or unreadable file does not stop the server, which sets it aside, with one
line in the log, since the next change would replace it.

Reading and writing take milliseconds: both run in a thread.
"""

import asyncio
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electrumx.lib import util
from electrumx.lib.env_base import shown
from electrumx.server.session.transport.bans import MAX_BANS, Ban, ordered, parse_network

NAME = "bans.json"
FORMAT = 1
# Of MAX_BANS bans, with a margin; a longer file is not read.
MAX_BYTES = 200 * MAX_BANS


class BanFile:
    """Loads and saves bans; saves never overlap."""

    def __init__(self, folder: Path, logger: logging.Logger) -> None:
        self.path = folder / NAME
        self._logger = logger
        self._saving = asyncio.Lock()

    async def load(self) -> list[Ban]:
        """Return the bans of the file, none if it is missing or damaged."""
        return await asyncio.to_thread(self._load)

    def _load(self) -> list[Ban]:
        try:
            return _parsed(self._content())
        except FileNotFoundError:
            return []
        except OSError as e:
            kept = self._set_aside()
            self._logger.error(
                f"cannot read {self.path}: {e.strerror}: no address is banned; {kept}"
            )
        # OverflowError: an integer beyond all floating-point numbers
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
            kept = self._set_aside()
            self._logger.error(
                f"{self.path} is damaged ({shown(str(e))[:200]}): no address is banned; {kept}"
            )
        return []

    def _content(self) -> bytes:
        with util.open_regular(self.path) as file:
            return file.read(MAX_BYTES + 1)

    def _set_aside(self) -> str:
        """Rename the file, and return where it is."""
        aside = self.path.with_name(f"{NAME}.damaged")
        try:
            os.replace(self.path, aside)
        except OSError as e:
            return f"it cannot be renamed ({e.strerror})"
        return f"it is kept as {aside}"

    async def save(self, bans: Sequence[Ban]) -> None:
        """Replace the file, durably.  Raises OSError.

        A save that has begun completes even if the caller is cancelled.
        """
        await asyncio.shield(self._save_in_turn(bans))

    async def _save_in_turn(self, bans: Sequence[Ban]) -> None:
        async with self._saving:
            await asyncio.to_thread(self.write, bans)

    def write(self, bans: Sequence[Ban]) -> None:
        """Replace the file now, durably.  Raises OSError.  Runs in: a thread."""
        content = {
            "format": FORMAT,
            "bans": [
                {"network": str(ban.network), "since": ban.since, "until": ban.until}
                for ban in ordered(bans)
            ],
        }
        draft = self.path.with_name(f"{NAME}.new")
        with open(draft, "wb") as file:
            file.write(json.dumps(content, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)
        util.sync_directory(self.path.parent)


def _parsed(raw: bytes) -> list[Ban]:
    """Return the bans of a file's bytes.  Raise ValueError, TypeError or KeyError if it is none."""
    if len(raw) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES:,d} bytes")
    content = json.loads(raw)
    if not isinstance(content, dict) or content["format"] != FORMAT:
        raise ValueError("not of format 1")
    entries = content["bans"]
    if not isinstance(entries, list) or len(entries) > MAX_BANS:
        raise ValueError(f"not a list of at most {MAX_BANS:,d} bans")
    return [_ban(entry) for entry in entries]


def _ban(entry: Any) -> Ban:
    network, since, until = entry["network"], entry["since"], entry["until"]
    if not isinstance(network, str):
        raise TypeError("a network that is no text")
    for moment in (since, until):
        # A boolean is an integer.
        if moment is not None and (isinstance(moment, bool) or not math.isfinite(moment)):
            raise ValueError("a time that is no number")
    if since is None:
        raise ValueError("a ban without a beginning")
    return Ban(parse_network(network), since, until)
