"""Compares the UTXOs of an audited database with the node's, at the same block.

Owns the node's count, and the outputs that only one of the two is known to keep.  Runs on the event loop;
worker threads parse blocks.

The node has as many UTXOs as we have, of the same sum, but for four differences.  It keeps
outputs whose script begins with 00 6a and drops those whose script is longer than 10,000 bytes; we
do the reverse.  It leaves out the genesis block's, which some coins index.  And of two coinbases
with one hash it keeps the later, as we do; other servers may have kept both, if a flush fell
between them.  The database gives the last two.  The first two take reading every block from the
node, which only a deep audit does; another one accepts a small difference and reports it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tx.cash_tokens import locking_script
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import in_parts
from electrumx.server.maintenance.audit import Audit, Totals

#: seconds that the node may take to count its outputs
NODE_SECS = 1800.0
#: seconds that it may take to send NODE_BLOCKS blocks
BLOCKS_SECS = 600.0
#: an audit that is not deep may leave one of so many outputs, or satoshis, unexplained
TOLERANCE = 10_000
#: blocks asked for at a time
NODE_BLOCKS = 20
#: scripts that are longer are not in the node's set
MAX_SCRIPT_SIZE = 10_000


class NodeSet(NamedTuple):
    """The node's unspent outputs at a block."""

    tip: bytes
    height: int
    totals: Totals


async def node_set(daemon: Daemon, coin: Any, hex_hash: str | None = None) -> NodeSet:
    """Ask the node for its unspent outputs.  Raise DaemonError if its answer is invalid."""
    answer = await asyncio.wait_for(daemon.gettxoutsetinfo(hex_hash), NODE_SECS)
    try:
        amount = round(float(answer["total_amount"]) * coin.VALUE_PER_COIN)
        totals = Totals(int(answer["txouts"]), amount)
        return NodeSet(bytes.fromhex(answer["bestblock"])[::-1], int(answer["height"]), totals)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DaemonError("the daemon's answer to gettxoutsetinfo makes no sense") from None


class NodeComparison:
    """Our UTXOs and the node's, at the same block."""

    def __init__(self, audit: Audit, daemon: Daemon, node: NodeSet):
        self.audit = audit
        self.daemon = daemon
        self.node = node
        #: (hash, index) -> value of outputs that the node keeps and we do not, and the reverse
        self.only_node: dict[tuple[bytes, int], int] = {}
        self.only_ours: dict[tuple[bytes, int], int] = {}

    def _difference(self) -> Totals:
        """Return how much more the node has than the known differences explain."""
        audit = self.audit
        ours = audit.utxos
        return Totals(
            self.node.totals.count
            - (ours.count - audit.genesis.count - audit.duplicates.count)
            - len(self.only_node)
            + len(self.only_ours),
            self.node.totals.value
            - (ours.value - audit.genesis.value - audit.duplicates.value)
            - sum(self.only_node.values())
            + sum(self.only_ours.values()),
        )

    def _exact(self, difference: Totals) -> bool:
        # A sum above 2^53 satoshis does not survive the node's JSON.
        slack = self.node.totals.value >> 50
        return difference.count == 0 and abs(difference.value) <= slack

    async def conclude(self) -> None:
        """Add findings or notes to the audit's.  Raise DaemonError or asyncio.TimeoutError."""
        audit = self.audit
        if audit.deep and not self._exact(self._difference()):
            await self._read_blocks()
        difference = self._difference()
        ours = audit.utxos
        text = (
            f"the node has {self.node.totals.count:,d} outputs, we {ours.count:,d} UTXOs, with "
            f"{audit.genesis.count:,d} of the genesis block and {audit.duplicates.count:,d} whose "
            "hash a later coinbase has"
        )
        if audit.deep:
            text += (
                f"; {len(self.only_node):,d} are the node's alone (00 6a), "
                f"{len(self.only_ours):,d} ours (over {MAX_SCRIPT_SIZE:,d} bytes)"
            )
        if self._exact(difference):
            audit.notes.append(f"node: {text}: all accounted for")
            return
        text += (
            f"; unaccounted for: {difference.count:+,d} outputs and {difference.value:+,d} satoshis"
        )
        small = (
            abs(difference.count) <= ours.count // TOLERANCE
            and abs(difference.value) <= ours.value // TOLERANCE
        )
        if not audit.deep and small:
            audit.notes.append(
                f"node: {text}, as few as scripts that only one of us keeps may be; a deep audit "
                "counts them"
            )
        else:
            audit.findings.append(f"node: {text}")
            audit.undecided = not audit.deep

    async def _read_blocks(self) -> None:
        """Collect what only one side keeps, from all blocks."""
        audit = self.audit
        top = audit.state.height
        next_log = time.monotonic() + audit.LOG_SECS
        for first in range(1, top + 1, NODE_BLOCKS):
            count = min(NODE_BLOCKS, top + 1 - first)
            hashes = await asyncio.to_thread(self._block_hashes, first, count)
            hex_hashes = [hash_to_hex_str(block_hash) for block_hash in hashes]
            asking = in_parts(self.daemon.raw_blocks, hex_hashes)
            raws = await asyncio.wait_for(asking, BLOCKS_SECS)
            await asyncio.to_thread(self._collect, raws, first)
            if time.monotonic() >= next_log:
                next_log = time.monotonic() + audit.LOG_SECS
                audit.logger.info(f"verify: the node's blocks, {100 * first / top:.1f}% done")

    def _block_hashes(self, first: int, count: int) -> list[bytes]:
        header_hash = self.audit.db.coin.header_hash
        return [header_hash(header) for header in self.audit.headers(first, count)]

    def _collect(self, raws: Sequence[bytes], first: int) -> None:
        coin = self.audit.db.coin
        for height, raw in enumerate(raws, first):
            txs = coin.block(raw, height).transactions
            for tx, tx_hash in txs:
                for index, txout in enumerate(tx.outputs):
                    script = txout.pk_script
                    if height >= coin.TOKENS_ACTIVATION:
                        script = locking_script(script)
                    if script[:1] == b"\x6a":
                        continue
                    if len(script) > MAX_SCRIPT_SIZE and script[:2] != b"\x00\x6a":
                        self.only_ours[tx_hash, index] = txout.value
                    elif len(script) <= MAX_SCRIPT_SIZE and script[:2] == b"\x00\x6a":
                        self.only_node[tx_hash, index] = txout.value
            if self.only_node or self.only_ours:
                for tx, _tx_hash in txs:
                    for txin in tx.inputs:
                        self.only_node.pop((txin.prev_hash, txin.prev_idx), None)
                        self.only_ours.pop((txin.prev_hash, txin.prev_idx), None)
