"""Whether a node suits a coin, judged by its replies.

Pure.  Raises OperatorError, one line for the operator, if it does not; DaemonError if the reply
does not have the documented form.
"""

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.log_text import printable
from electrumx.server.daemon.responses import is_int, unexpected


def networks_with_genesis(hex_hash: str) -> list[str]:
    """Return the coins and networks whose first block has this hash, at most five."""
    found, todo = set(), [Coin]
    while todo:
        coin = todo.pop()
        todo += coin.__subclasses__()
        is_network = hasattr(coin, "NET") and coin.__module__.startswith("electrumx.")
        if is_network and hex_hash == coin.GENESIS_HASH:
            found.add(f"{coin.NAME} {coin.NET}")
    return sorted(found, key=lambda name: (len(name), name))[:5]


def judge_chain(coin: type[Coin], genesis: object, where: str) -> None:
    """Judge the node at ``where`` by the hex hash of its first block."""
    if not isinstance(genesis, str):
        raise unexpected("getblockhash")
    if genesis.lower() == coin.GENESIS_HASH:
        return
    networks = networks_with_genesis(genesis)
    other = f"the chain of {' or '.join(networks)}" if networks else "another chain"
    raise OperatorError(
        f"the daemon at {where} follows {other}, not that of {coin.NAME} {coin.NET}: its genesis "
        f"block is {printable(genesis)}, not {coin.GENESIS_HASH}; check COIN, NET and DAEMON_URL"
    )


def judge_version(coin: type[Coin], network_info: object) -> None:
    """Judge the node by the version in its getnetworkinfo, if the coin demands one."""
    version = network_info.get("version") if isinstance(network_info, dict) else None
    if not is_int(version):
        raise unexpected("getnetworkinfo")
    minimum = coin.MIN_REQUIRED_DAEMON_VERSION or "0"
    have = (version // 10_000, version // 100 % 100, version % 100)
    need = tuple(int(part) for part in minimum.split("."))
    if have < need:
        text = ".".join(str(part) for part in have)
        raise OperatorError(f"the daemon has version {text}, at least {minimum} is needed")


def incomplete_indexes(coin: type[Coin], indexes: object, where: str) -> list[str]:
    """Judge the node at ``where`` by its getindexinfo; return the indexes that it still builds."""
    if not isinstance(indexes, dict):
        raise unexpected("getindexinfo")
    incomplete = []
    for name in coin.REQUIRED_DAEMON_INDEXES:
        index = indexes.get(name)
        if not isinstance(index, dict):
            raise OperatorError(
                f"the daemon at {where} has no {name}: restart it with {name}=1 in its "
                "configuration; it builds the index by itself"
            )
        if not index.get("synced"):
            incomplete.append(name)
    return incomplete
