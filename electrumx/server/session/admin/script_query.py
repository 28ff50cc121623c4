"""The administrator's query: the history, UTXOs and balance of scripts, addresses and names.

Runs on the event loop; a thread parses items.
"""

import asyncio
import logging

from electrumx.lib.bech32 import AddressError
from electrumx.lib.coins import Coin
from electrumx.lib.env_base import shown
from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import Base58Error, hash_to_hex_str
from electrumx.server.db import DB

# How the line of an unknown item begins; ``electrumx_rpc`` then exits with 1.
UNKNOWN = "unknown: "


class UnknownItemError(ElectrumXError):
    """An item is neither a script, an address nor a name of the coin; the text is the reason."""


class ScriptQuery:
    """Answers queries in lines for people."""

    def __init__(
        self,
        db: DB,
        coin: type[Coin],
        logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]",
    ):
        """``coin`` is the coin class; some have an index of names."""
        self._db = db
        self._coin = coin
        self._logger = logger

    async def lines(self, items: list[str], limit: int) -> list[str]:
        """Return lines about each item, at most ``limit`` transactions and UTXOs of each."""
        lines: list[str] = []
        for item in items:
            try:
                kind, hashX = await asyncio.to_thread(self._hashX_of, item)
            except UnknownItemError as e:
                lines.append(f"{UNKNOWN}{shown(item)}: {shown(str(e))}")
                continue
            lines.append(f"{kind}: {item}")
            lines += await self._script_lines(hashX, limit)
        return lines

    def _hashX_of(self, item: str) -> tuple[str, bytes]:
        """Return (kind of item, its index key); UnknownItemError if it is none of ours."""
        coin = self._coin
        try:
            return "Script", coin.hashX_from_script(bytes.fromhex(item))
        except ValueError:
            pass
        reason = f"neither a script in hex nor an address of {coin.NAME} {coin.NET}"
        try:
            return "Address", coin.address_to_hashX(item)
        except AddressError as e:
            # No name either: it begins as an address does.
            raise UnknownItemError(f"invalid address: {e}") from None
        except (Base58Error, ValueError):
            pass
        except Exception as e:
            # An address of another coin is no reason to fail the other items.
            self._logger.info(shown(f"query: {item} is not an address of ours: {e}"))
            reason = f"{reason}: {e}"
        try:
            # Coins without names have no such method.
            script = coin.build_name_index_script(  # type: ignore[attr-defined]
                item.encode("ascii")
            )
            hashX: bytes = coin.name_hashX_from_script(script)  # type: ignore[attr-defined]
            return "Name", hashX
        except (AttributeError, UnicodeEncodeError):
            raise UnknownItemError(reason) from None

    async def _script_lines(self, hashX: bytes, limit: int) -> list[str]:
        history = await self._db.limited_history(hashX, limit=limit)
        lines = [
            f"History #{n:,d}: height {height:,d} tx_hash {hash_to_hex_str(tx_hash)}"
            for n, (tx_hash, height) in enumerate(history, start=1)
        ] or ["No history found"]
        utxos = await self._db.all_utxos(hashX)
        lines += [
            f"UTXO #{n:,d}: tx_hash {hash_to_hex_str(utxo.tx_hash)} tx_pos {utxo.tx_pos:,d} "
            f"height {utxo.height:,d} value {utxo.value:,d}"
            for n, utxo in enumerate(utxos[:limit], start=1)
        ] or ["No UTXOs found"]
        balance = self._coin.decimal_value(sum(utxo.value for utxo in utxos))
        lines.append(f"Balance: {balance.normalize():,f} {self._coin.SHORTNAME}")
        return lines
