"""blockchain.scriptpubkey.*: the methods of script hashes, from protocol 1.7 on by script.

Their answers are objects, which leave room for more members.  Notifications name the script hash.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import Any

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, sha256
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import assert_hex
from electrumx.server.session.methods.scripthash import ScripthashMethods

Finish = Callable[[bytes, Any, float], Any]


def _digest(scriptpubkey: object) -> bytes:
    """Return the SHA-256 of a script in hex."""
    return sha256(bytes.fromhex(assert_hex(scriptpubkey)))


def _hashX(scriptpubkey: object) -> bytes:
    """Return the index key of a script in hex."""
    return _digest(scriptpubkey)[:HASHX_LEN]


def _in_object(member: bytes, finish: Finish, hashX: bytes, value: object, cost: float) -> Any:
    """Return the result of ``finish`` as the member of an object, or an awaitable of that."""
    return _as_member(member, finish(hashX, value, cost))


def _as_member(member: bytes, result: object) -> Any:
    """Return a list, encoded or not, as the member of an object, or an awaitable of that."""
    if isawaitable(result):
        return _awaited(member, result)
    if isinstance(result, EncodedJSON):
        return EncodedJSON(b'{"%b":%b}' % (member, result))
    return {member.decode(): result}


async def _awaited(member: bytes, result: Awaitable[object]) -> Any:
    return _as_member(member, await result)


class ScriptpubkeyMethods(ScripthashMethods):
    """Requests about scripts, by their hash or as they are."""

    __slots__ = ()

    @rpc_method("blockchain.scriptpubkey.get_balance", since=(1, 7))
    def scriptpubkey_get_balance(self, scriptpubkey: object) -> Any:
        """Return the confirmed balance and the mempool's change to it."""
        balances = self.shared.scripts.balances
        return self._at_one_tip(balances, self._balance, _hashX(scriptpubkey))

    @rpc_method("blockchain.scriptpubkey.get_history", since=(1, 7))
    def scriptpubkey_get_history(self, scriptpubkey: object) -> Any:
        """Return confirmed transactions in chain order, then those of the mempool."""
        finish = partial(_in_object, b"history", self._history)
        return self._at_one_tip(self.shared.scripts.histories, finish, _hashX(scriptpubkey))

    @rpc_method("blockchain.scriptpubkey.listunspent", since=(1, 7))
    def scriptpubkey_listunspent(self, scriptpubkey: object) -> Any:
        """Return the unspent outputs, without those that the mempool spends."""
        finish = partial(_in_object, b"utxos", self._listunspent)
        return self._at_one_tip(self.shared.scripts.utxos, finish, _hashX(scriptpubkey))

    @rpc_method("blockchain.scriptpubkey.get_mempool", since=(1, 7))
    def scriptpubkey_get_mempool(self, scriptpubkey: object) -> Any:
        """Return the unconfirmed transactions."""
        script_hash = hash_to_hex_str(_digest(scriptpubkey))
        return _as_member(b"history", self.scripthash_get_mempool(script_hash))

    @rpc_method("blockchain.scriptpubkey.subscribe", since=(1, 7))
    def scriptpubkey_subscribe(self, scriptpubkey: object) -> Any:
        """Return the status, and notify when it may have changed."""
        return self.scripthash_subscribe(hash_to_hex_str(_digest(scriptpubkey)))

    @rpc_method("blockchain.scriptpubkey.unsubscribe", since=(1, 7))
    def scriptpubkey_unsubscribe(self, scriptpubkey: object) -> bool:
        """End a subscription; return whether there was one."""
        return self.scripthash_unsubscribe(hash_to_hex_str(_digest(scriptpubkey)))
