"""Coin: every parameter of a chain with its unit and default, and the look-up of a coin.

A coin is a class without instances; its parameters are class attributes and its methods
class methods, so that a third party adds a coin by deriving from ``Coin``.  This module parses no
bytes: ``DESERIALIZER`` names the class in lib.tx that does.  It names the classes of the server
that serve a coin by text and loads them on first use, so that importing lib.coins loads none.

Nothing here changes after import; any thread may use it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from hashlib import sha256 as _sha256
from importlib import import_module
from struct import Struct
from typing import Any, ClassVar, NamedTuple, Optional, Union

from electrumx.lib.bech32 import AddressError, has_prefix, witness_script
from electrumx.lib.bech32 import decode as decode_bech32
from electrumx.lib.cash_address import cash_script
from electrumx.lib.cash_address import is_alike as is_cash_address_alike
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import (
    HASHX_LEN,
    Base58,
    Base58Error,
    double_sha256,
    hash160,
    hash_to_hex_str,
)
from electrumx.lib.header_hashes import HeaderHash
from electrumx.lib.script import ScriptPubKey, is_unspendable_genesis, is_unspendable_legacy
from electrumx.lib.tx import Deserializer
from electrumx.lib.tx.reader import trailing_bytes

# COIN as operators write it, in lower case -> NAME.  A class whose NAME is the alias itself
# comes first.
NAME_ALIASES: dict[str, str] = {
    "bitcoin": "BitcoinSegwit",
    "bitcoincash": "BitcoinCashABC",
}


# The height of an upgrade that a chain does not have.
NEVER = 100_000_000


class CoinError(OperatorError):
    """An unknown coin, a wrong address or daemon URL, or a daemon on another chain."""


class Block(NamedTuple):
    """A parsed block."""

    raw: bytes
    header: bytes
    transactions: list[tuple[Any, bytes]]  # (transaction, tx hash) in block order


class OutputRule(NamedTuple):
    """How to index the outputs of a block, by the bytes of their script fields."""

    # Whether no transaction can spend the output, which then stays out of the index.
    is_unspendable: Callable[[bytes], Union[bool, bytes]]
    # Its 11-byte key in the index.
    hashX_from_script: Callable[[bytes], bytes]


class ServerClass:
    """A class attribute that is a class of the server, imported when first asked for."""

    def __init__(self, dotted_name: str) -> None:
        """Take "package.module:Class"."""
        self.dotted_name = dotted_name

    def __get__(self, instance: object, owner: Optional[type] = None) -> Any:
        module_name, _, class_name = self.dotted_name.partition(":")
        return getattr(import_module(module_name), class_name)


class Coin:
    """The parameters of a coin, and the values that follow from them."""

    # --- Identity.  The case of NAME and NET does not matter.
    NAME: ClassVar[str]
    SHORTNAME: ClassVar[str]  # ticker symbol
    NET: ClassVar[str]

    # --- Chain.
    # Hash of the header at height 0, display order.
    GENESIS_HASH: ClassVar[str] = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
    # First height at which a lone OP_RETURN is spendable (Bitcoin SV); the default is "never".
    GENESIS_ACTIVATION: ClassVar[int] = NEVER
    # First height at which a token prefix is no part of an output's script (Bitcoin Cash).
    TOKENS_ACTIVATION: ClassVar[int] = NEVER
    # How many smallest units make a coin.
    VALUE_PER_COIN: ClassVar[int] = 100_000_000
    # Headers in a chunk of the old protocol.
    CHUNK_SIZE: ClassVar[int] = 2016
    # Bytes of a header, or of its part that is always there.
    BASIC_HEADER_SIZE: ClassVar[int] = 80
    # True if a header's place in the header file follows from its height; False if headers vary
    # and a second file records their places.
    STATIC_BLOCK_HEADERS: ClassVar[bool] = True
    # The hash of a header: 32 bytes in natural order.
    HEADER_HASH: ClassVar[HeaderHash] = double_sha256
    # Names of a basic header's fields, and the function that unpacks them.
    HEADER_VALUES: ClassVar[Sequence[str]] = [
        "version",
        "prev_block_hash",
        "merkle_root",
        "timestamp",
        "bits",
        "nonce",
    ]
    HEADER_UNPACK: ClassVar[Any] = Struct("<I32s32sIII").unpack_from
    # True if nothing may follow a block's last transaction; other coins have signatures there, or
    # extensions.  It distinguishes chains that share Bitcoin's first block.
    WHOLE_BLOCKS: ClassVar[bool] = False
    # Reads the coin's transactions.
    DESERIALIZER: ClassVar[type[Deserializer]] = Deserializer

    # --- Addresses and keys: version bytes, one or two.
    P2PKH_VERBYTE: ClassVar[bytes] = bytes.fromhex("00")
    # All that are understood; the first one is written.
    P2SH_VERBYTES: ClassVar[Sequence[bytes]] = [bytes.fromhex("05")]
    WIF_BYTE: ClassVar[bytes] = bytes.fromhex("80")
    # The human-readable part of segregated-witness addresses, and the prefix of Bitcoin Cash's;
    # empty if the coin has no such addresses, or if theirs is unknown.
    SEGWIT_HRP: ClassVar[str] = ""
    CASH_ADDRESS_PREFIX: ClassVar[str] = ""
    # Four bytes each; the default stands for unknown.
    XPUB_VERBYTES: ClassVar[bytes] = b"????"
    XPRV_VERBYTES: ClassVar[bytes] = b"????"
    # Base58Check of the coin; some have another checksum.
    ENCODE_CHECK = staticmethod(Base58.encode_check)
    DECODE_CHECK = staticmethod(Base58.decode_check)

    # --- The size of the chain at some moment, for estimates of the remaining time.
    TX_COUNT: ClassVar[int]  # transactions up to and including TX_COUNT_HEIGHT
    TX_COUNT_HEIGHT: ClassVar[int]
    TX_PER_BLOCK: ClassVar[int]  # about how many, from then on

    # --- Daemon.
    # The pattern that a DAEMON_URL must match completely.
    RPC_URL_REGEX: ClassVar[str] = r".+@(\[[0-9a-fA-F:]+\]|[^]\[@:/?#\s]+)(:[0-9]{1,5})?"
    # TCP port, where the URL has none; None if the coin has no usual one.
    RPC_PORT: ClassVar[Optional[int]] = None
    # Optional indexes that the daemon must have.
    REQUIRED_DAEMON_INDEXES: ClassVar[Sequence[str]] = ["txindex"]
    # Oldest daemon accepted, dotted; None accepts all.
    MIN_REQUIRED_DAEMON_VERSION: ClassVar[Optional[str]] = None
    # (height, count) ascending: from that height on fetch at most count blocks at once.
    # Early blocks are small.
    FETCH_STEPS: ClassVar[Sequence[tuple[int, int]]] = [(0, 1000), (130_000, 100)]
    # Modes that blockchain.estimatefee may pass on; None means no mode.
    ESTIMATEFEE_MODES: ClassVar[Sequence[Optional[str]]] = [None, "CONSERVATIVE", "ECONOMICAL"]

    # --- Server classes; a coin of a third party may simply assign a class.
    SESSIONCLS: ClassVar[Any] = ServerClass("electrumx.server.session:ElectrumX")
    DAEMON: ClassVar[Any] = ServerClass("electrumx.server.daemon:Daemon")
    BLOCK_PROCESSOR: ClassVar[Any] = ServerClass("electrumx.server.block_processor:BlockProcessor")

    # --- Serving.
    # Defaults of the environment variables of the same names: blocks; bytes.
    REORG_LIMIT: ClassVar[int] = 200
    DEFAULT_MAX_SEND: ClassVar[int] = 1_000_000
    DEFAULT_MAX_RECV: ClassVar[int] = 1_000_000
    # Default of BLACKLIST_URL: a JSON list of peers to shun.
    BLACKLIST_URL: ClassVar[Optional[str]] = None
    # Seconds between two computations of the fee histogram, and virtual bytes in its first bin.
    MEMPOOL_HISTOGRAM_REFRESH_SECS: ClassVar[int] = 500
    MEMPOOL_COMPACT_HISTOGRAM_BINSIZE: ClassVar[int] = 30_000
    # Default ports by transport, as text: t is TCP and s is SSL.
    PEER_DEFAULT_PORTS: ClassVar[dict[str, str]] = {"t": "50001", "s": "50002"}
    # Peers to begin with: "host service ...", where a port may follow a service.
    PEERS: ClassVar[Sequence[str]] = []
    # The server crashes clients up to this version that speak an old protocol, by notifications:
    # they show messages of servers as if these were their own.
    CRASH_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = None
    # Clients before this version get a request to upgrade, with the address, at each broadcast.
    SAFE_CLIENT_VER: ClassVar[Optional[tuple[int, ...]]] = None
    CLIENT_UPGRADE_URL: ClassVar[Optional[str]] = None

    # --- Look-up

    @classmethod
    def lookup_coin_class(cls, name: str, net: str) -> type["Coin"]:
        """Return the coin of that NAME (or alias of it) and NET, whatever the case.

        Raises CoinError if no coin has them, or if it lacks a figure about the chain's size.
        """
        wanted_net = net.lower()
        alias = NAME_ALIASES.get(name.lower(), name)
        for wanted_name in (name.lower(), alias.lower()):
            for coin in coin_classes():
                if (coin.NAME.lower(), coin.NET.lower()) == (wanted_name, wanted_net):
                    return _complete(coin)
        raise CoinError(
            f"unknown coin {name} and network {net} combination: set COIN and NET to a pair that "
            "the manual lists"
        )

    @staticmethod
    def lookup_xverbytes(verbytes: bytes) -> tuple[bool, type["Coin"]]:
        """Return (is public, coin) for the version bytes of an extended key.

        The first coin in the order of class names wins.  Raises CoinError if no coin matches.
        """
        for coin in coin_classes():
            if verbytes == coin.XPUB_VERBYTES:
                return True, coin
            if verbytes == coin.XPRV_VERBYTES:
                return False, coin
        raise CoinError(f"unknown extended key version bytes {verbytes.hex()}")

    # --- Daemon

    @classmethod
    def sanitize_url(cls, url: str) -> str:
        """Return a daemon's URL with scheme, port and one slash at its end.

        Raises CoinError, with the password hidden, if it is no user:password@host[:port].
        """
        url = url.strip().rstrip("/")
        scheme, separator, rest = url.partition("://")
        if re.match("https?(//|:/(?!/))", url, re.IGNORECASE):
            raise _invalid_url(url, "the scheme is misspelt")
        if separator and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
            # The parser would take any other one for the user's name.
            if scheme.lower() not in ("http", "https"):
                raise _invalid_url(url, "the scheme is neither http nor https")
            url = f"{scheme.lower()}://{rest}"
        if "@" not in url:
            raise _invalid_url(url, "user:password@ is missing")
        match = re.fullmatch(cls.RPC_URL_REGEX, url)
        if not match or (match[2] and not 0 < int(match[2][1:]) < 65536):
            raise _invalid_url(url, "user, password, host or port is missing or wrong")
        if match[2] is None:
            if cls.RPC_PORT is None:
                raise CoinError(f"daemon URL without a port: {cls.NAME} {cls.NET} has no usual one")
            url += f":{cls.RPC_PORT:d}"
        if not url.startswith(("http://", "https://")):
            url = f"http://{url}"
        return url + "/"

    @classmethod
    def max_fetch_blocks(cls, height: int) -> int:
        """Return how many blocks to fetch from the daemon at once, at most, from height on."""
        return next(
            (count for first, count in reversed(cls.FETCH_STEPS) if height >= first),
            cls.FETCH_STEPS[0][1],
        )

    @classmethod
    def bucket_estimatefee_block_target(cls, n: int) -> int:
        """Return the confirmation target, in blocks, whose estimate stands for that of n."""
        return n

    # --- Blocks

    @classmethod
    def genesis_block(cls, block: bytes) -> bytes:
        """Return the indexed part of the raw genesis block: its header, and no transactions.

        Its coinbase cannot be spent.  Raises CoinError if its hash is not GENESIS_HASH.
        """
        header = cls.block_header(block, 0)
        header_hex_hash = hash_to_hex_str(cls.header_hash(header))
        if header_hex_hash != cls.GENESIS_HASH:
            raise CoinError(
                f"the daemon's genesis block has hash {header_hex_hash} "
                f"({_networks_of(header_hex_hash)}), "
                f"that of {cls.NAME} {cls.NET} is {cls.GENESIS_HASH}: wrong COIN, NET or daemon?"
            )
        return header + b"\0"

    @classmethod
    def header_hash(cls, header: bytes) -> bytes:
        """Return the 32-byte hash of a block's header, natural order.

        Raises HeaderHashError if that takes an optional package which is not there.
        """
        return cls.HEADER_HASH(header)

    @classmethod
    def header_prevhash(cls, header: bytes) -> bytes:
        """Return the hash of the block before, natural order."""
        return header[4:36]

    @classmethod
    def static_header_offset(cls, height: int) -> int:
        """Return the offset in bytes of a header among all headers, one behind the other."""
        assert cls.STATIC_BLOCK_HEADERS
        return height * cls.BASIC_HEADER_SIZE

    @classmethod
    def static_header_len(cls, height: int) -> int:
        """Return the bytes of the header at height."""
        return cls.static_header_offset(height + 1) - cls.static_header_offset(height)

    @classmethod
    def block_header(cls, block: bytes, height: int) -> bytes:
        """Return the header of a raw block; DeserializeError if the block is shorter."""
        if not cls.STATIC_BLOCK_HEADERS:
            return cls.read_header(block)
        return cls.cut_header(block, cls.static_header_len(height))

    @classmethod
    def cut_header(cls, block: bytes, length: int) -> bytes:
        """Return the first length bytes of a block; DeserializeError if there are fewer."""
        if len(block) < length:
            raise DeserializeError(f"a block of {len(block):,d} bytes is shorter than its header")
        return block[:length]

    @classmethod
    def read_header(cls, block: bytes) -> bytes:
        """Return the header of a raw block; only reading it finds its length."""
        deserializer: Any = cls.DESERIALIZER(block)
        header: bytes = deserializer.read_header(cls.BASIC_HEADER_SIZE)
        return header

    @classmethod
    def block(cls, raw_block: bytes, height: int) -> Block:
        """Return a raw block parsed; DeserializeError if it is malformed.

        Takes milliseconds for a big block: runs in a thread.
        """
        header = cls.block_header(raw_block, height)
        deserializer = cls.DESERIALIZER(raw_block, start=len(header))
        txs = deserializer.read_tx_block()
        if cls.WHOLE_BLOCKS and deserializer.cursor != len(raw_block):
            raise trailing_bytes(len(raw_block) - deserializer.cursor)
        return Block(raw_block, header, txs)

    # --- Scripts, addresses, keys

    @classmethod
    def hashX_from_script(cls, script: bytes) -> bytes:
        """Return the 11-byte key of an output with this script in the index."""
        return _sha256(script).digest()[:HASHX_LEN]

    @classmethod
    def output_rule(cls, height: int, tokens_from: int = 0) -> OutputRule:
        """Return how to index outputs of the block at height.

        Blocks below tokens_from were indexed as if there were no tokens.
        """
        if height >= cls.GENESIS_ACTIVATION:
            return OutputRule(is_unspendable_genesis, cls.hashX_from_script)
        return OutputRule(is_unspendable_legacy, cls.hashX_from_script)

    @classmethod
    def address_to_hashX(cls, address: str) -> bytes:
        """Return the hashX of an address; raises as pay_to_address_script does."""
        return cls.hashX_from_script(cls.pay_to_address_script(address))

    @classmethod
    def P2PKH_address_from_hash160(cls, hash160: bytes) -> str:
        """Return the address of a 20-byte public key hash."""
        assert len(hash160) == 20
        return cls.ENCODE_CHECK(cls.P2PKH_VERBYTE + hash160)

    @classmethod
    def P2PKH_address_from_pubkey(cls, pubkey: bytes) -> str:
        """Return the address of a public key."""
        return cls.P2PKH_address_from_hash160(hash160(pubkey))

    @classmethod
    def P2SH_address_from_hash160(cls, hash160: bytes) -> str:
        """Return the address of a 20-byte script hash, in the first of the coin's forms."""
        assert len(hash160) == 20
        return cls.ENCODE_CHECK(cls.P2SH_VERBYTES[0] + hash160)

    @classmethod
    def hash160_to_P2PKH_script(cls, hash160: bytes) -> bytes:
        """Return the script that pays to a 20-byte public key hash."""
        return ScriptPubKey.P2PKH_script(hash160)

    @classmethod
    def hash160_to_P2PKH_hashX(cls, hash160: bytes) -> bytes:
        """Return the hashX of the script that pays to a 20-byte public key hash."""
        return cls.hashX_from_script(cls.hash160_to_P2PKH_script(hash160))

    @classmethod
    def pay_to_address_script(cls, address: str) -> bytes:
        """Return the script that pays to an address in any of the coin's forms.

        Raises TypeError if it is no str, Base58Error if it is no Base58Check text, CoinError if
        it is of another coin, and AddressError if it has one of the newer forms, but a fault.
        """
        if not isinstance(address, str):
            raise TypeError("a str is required")
        if cls.SEGWIT_HRP and has_prefix(address, cls.SEGWIT_HRP):
            return witness_script(address, cls.SEGWIT_HRP)
        if cls.CASH_ADDRESS_PREFIX and is_cash_address_alike(address, cls.CASH_ADDRESS_PREFIX):
            return cash_script(address, cls.CASH_ADDRESS_PREFIX)
        try:
            raw = cls.DECODE_CHECK(address)
        except Base58Error:
            cls._refuse_foreign_hrp(address)
            raise
        verbyte, hash160 = raw[:-20], raw[-20:]
        if verbyte == cls.P2PKH_VERBYTE:
            return ScriptPubKey.P2PKH_script(hash160)
        if verbyte in cls.P2SH_VERBYTES:
            return ScriptPubKey.P2SH_script(hash160)
        raise CoinError(f"{address} is not an address of {cls.NAME} {cls.NET}")

    @classmethod
    def _refuse_foreign_hrp(cls, address: str) -> None:
        """Raise CoinError if a text is a Bech32 address, which then is of another coin."""
        try:
            hrp = decode_bech32(address)[0]
        except AddressError:
            return
        ours = f"begin with {cls.SEGWIT_HRP}1" if cls.SEGWIT_HRP else "have no known prefix"
        raise CoinError(
            f"{address} begins with {hrp}1: such addresses of {cls.NAME} {cls.NET} {ours}"
        )

    @classmethod
    def privkey_WIF(cls, privkey_bytes: bytes, compressed: bool) -> str:
        """Return a 32-byte private key as wallets import it.

        compressed: whether its public key is meant to be in the compressed form.
        """
        return cls.ENCODE_CHECK(cls.WIF_BYTE + privkey_bytes + b"\1" * bool(compressed))

    @classmethod
    def decimal_value(cls, value: int) -> Decimal:
        """Return a value in smallest units as an exact number of coins."""
        return Decimal(value) / cls.VALUE_PER_COIN

    # --- Clients

    @classmethod
    def warn_old_client_on_tx_broadcast(cls, client_ver: tuple[int, ...]) -> Union[str, bool]:
        """Return the text that a client gets in place of the txid, or False to reply as usual.

        The text is HTML: those clients show it in a window.
        """
        if cls.SAFE_CLIENT_VER is None or client_ver >= cls.SAFE_CLIENT_VER:
            return False
        url = cls.CLIENT_UPGRADE_URL
        return (
            "<br/><br/>"
            "The network has received your transaction. "
            "However, <b>this version of your wallet is not safe to use</b>: "
            "it has known faults that thieves exploit. "
            f'<br/>Get the latest release, from no other place than <a href="{url}">{url}</a>.'
            "<br/><br/>"
        )


def coin_classes() -> Iterator[type[Coin]]:
    """Yield all classes with a NAME and a NET, in the order of their own names.

    Walks the subclasses because coins are spread over many modules.
    """
    found: set[type[Coin]] = set()
    todo: list[type[Coin]] = [Coin]
    while todo:
        for coin in todo.pop().__subclasses__():
            if coin not in found:
                found.add(coin)
                todo.append(coin)
    for coin in sorted(found, key=lambda coin: (coin.__name__, coin.__module__)):
        if hasattr(coin, "NAME") and hasattr(coin, "NET"):
            yield coin


def _complete(coin: type[Coin]) -> type[Coin]:
    missing = [
        attr for attr in ("TX_COUNT", "TX_COUNT_HEIGHT", "TX_PER_BLOCK") if not hasattr(coin, attr)
    ]
    if missing:
        raise CoinError(f"coin {coin.__name__} lacks {', '.join(missing)}")
    return coin


def _networks_of(genesis_hash: str) -> str:
    """Return the coins and networks whose chain begins with a block, as text."""
    coins = [coin for coin in coin_classes() if genesis_hash == coin.GENESIS_HASH]
    names = sorted({f"{coin.NAME} {coin.NET}" for coin in coins})
    if not names:
        return "of no known network"
    return f"of {', '.join(names)}"


def _invalid_url(url: str, reason: str) -> CoinError:
    return CoinError(
        f'invalid daemon URL: "{_without_login(url)}": {reason}; '
        "DAEMON_URL takes http://user:password@host:port/"
    )


def _without_login(url: str) -> str:
    """Return url with the user and a possible password replaced, for messages."""
    scheme = "".join(re.findall(r"\Ahttps?://", url))
    user_info, at, host = url.removeprefix(scheme).rpartition("@")
    if at:
        return f"{scheme}{'…' if user_info else ''}@{host}"
    # There is no host, or no user: the text behind the colon is a port or a password.
    name, colon, port = host.partition(":")
    if not re.fullmatch(r"[0-9]{0,5}", port):
        port = "…"
    return f"{scheme}{name}{colon}{port}"
