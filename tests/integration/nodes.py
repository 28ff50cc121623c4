"""Real nodes on regtest: Litecoin Core, the Bitcoin SV node, bcoin, bcash.

Each lives in a folder of its own and listens on one free loopback port, for RPC only. Synchronous:
asynchronous tests call through `asyncio.to_thread` where a call may take long.
"""

import base64
import itertools
import json
import urllib.error
import urllib.request
from decimal import Decimal

from tests.conftest import require
from tests.integration import parts
from tests.integration.processes import Child, ChildDied
from tests.ports import free_port

START_SECS = 150
USER = "u"
PASSWORD = "p"
# On regtest a node checks all that it holds after every block and transaction, which takes ever
# longer.
NO_SELF_CHECKS = ("-checkblockindex=0", "-checkmempool=0")


class RPCFailure(Exception):
    """The node answered with an error: code and message."""

    def __init__(self, error):
        super().__init__(error)
        self.code = error.get("code") if isinstance(error, dict) else None
        self.message = error.get("message") if isinstance(error, dict) else str(error)


def _json_number(value):
    # Amounts go out with their eight digits, never in the exponent form of a float.
    return float(value) if isinstance(value, Decimal) else str(value)


class Node:
    """The base of all nodes. Subclasses define how to start one and which COIN it serves."""

    COIN = ""
    NET = "regtest"
    NAME = ""

    def __init__(self, folder):
        self.folder = folder
        self.port = 0
        self.child = None
        self._ids = itertools.count(1)
        self._known_blocks = {}  # hash -> raw block, also of branches that are gone

    # --- for subclasses

    def command(self):
        """The words that start it on self.port with its data in self.folder."""
        raise NotImplementedError

    def on_ready(self):
        """Runs whenever it has started and answers."""

    def login(self):
        """User and password."""
        return USER, PASSWORD

    # --- life

    @property
    def url(self):
        """The value of DAEMON_URL."""
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    @property
    def env(self):
        """The server's settings that depend on the node."""
        return {"COIN": self.COIN, "NET": self.NET, "DAEMON_URL": self.url}

    def start(self, *, port=None):
        """Start and wait until it answers; returns self. Keeps the port over restarts."""
        for attempt in range(3):
            self.port = port or self.port or free_port()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.child = Child(self.NAME, self.command(), folder=self.folder)
            try:
                self.child.wait_for(self._answers, what="answer to RPC", timeout=START_SECS)
                break
            except ChildDied:
                # Another process may have taken the free port in the meantime.
                if attempt == 2 or port:
                    raise
                self.port = 0
            except BaseException:
                self.child.kill()
                raise
        self.on_ready()
        return self

    def _answers(self):
        try:
            self.rpc("getblockcount")
        except (OSError, RPCFailure, ValueError):  # not listening, warming up, half an answer
            return False
        return True

    def stop(self):
        """Shut it down in order."""
        if self.child:
            self.child.terminate()
            self.child = None

    def kill(self):
        """End it at once, as a power cut would."""
        if self.child:
            self.child.kill()
            self.child = None

    def restart(self):
        """Shut it down and start it again on the same port and data."""
        self.stop()
        return self.start(port=self.port)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_exc):
        self.stop()

    # --- RPC

    def _post(self, payload, timeout):
        body = json.dumps(payload, default=_json_number).encode()
        token = base64.b64encode(":".join(self.login()).encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url_without_login, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                raw = reply.read()
        except urllib.error.HTTPError as e:
            with e:
                raw = e.read()
            if not raw.startswith((b"{", b"[")):
                raise OSError(f"HTTP {e.code}: {raw[:200]!r}") from None
        return json.loads(raw, parse_float=Decimal)

    @property
    def url_without_login(self):
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}/"

    def rpc(self, method, *params, timeout=120):
        """The result of one call, amounts as Decimal; RPCFailure if the node refuses."""
        answer = self._post({"id": next(self._ids), "method": method, "params": params}, timeout)
        if answer.get("error") is not None:
            raise RPCFailure(answer["error"])
        return answer["result"]

    def rpc_batch(self, calls, *, size=500, timeout=120):
        """Results of many (method, *params), in order, some hundred per request."""
        results = []
        for start in range(0, len(calls), size):
            part = calls[start : start + size]
            payload = [
                {"id": n, "method": method, "params": params}
                for n, (method, *params) in enumerate(part)
            ]
            answers = {answer["id"]: answer for answer in self._post(payload, timeout)}
            for n in range(len(part)):
                if answers[n].get("error") is not None:
                    raise RPCFailure(answers[n]["error"])
                results.append(answers[n]["result"])
        return results

    # --- the chain

    def height(self):
        """Height of the tip."""
        return self.rpc("getblockcount")

    def mine(self, count=1, address=None):
        """Mine blocks; their hashes."""
        return self.rpc("generatetoaddress", count, address or self.mining_address())

    def mining_address(self):
        """An address that blocks may pay to."""
        raise NotImplementedError

    def raw_blocks(self, start, count):
        """Raw blocks from a height on."""
        hashes = self.rpc_batch([("getblockhash", h) for h in range(start, start + count)])
        missing = [h for h in hashes if h not in self._known_blocks]
        raws = self.rpc_batch([("getblock", h, *self.RAW_BLOCK) for h in missing], size=50)
        for block_hash, raw in zip(missing, raws, strict=True):
            self._known_blocks[block_hash] = bytes.fromhex(raw)
        return [self._known_blocks[h] for h in hashes]

    # The parameters of getblock after the hash for a result in hex.
    RAW_BLOCK = (0,)

    def reorganise(self, depth, extra=1):
        """Replace the last depth blocks by depth + extra empty-handed ones; new hashes.

        The transactions of the replaced blocks return to the node's mempool first, so the new
        blocks may hold them again.
        """
        self.rpc("invalidateblock", self.rpc("getblockhash", self.height() - depth + 1))
        return self.mine(depth + extra)


class WalletNode(Node):
    """A node with a wallet of its own."""

    WALLET = None  # its name where it must be created or loaded

    def on_ready(self):
        if self.WALLET is None or self.WALLET in self.rpc("listwallets"):
            return
        try:
            self.rpc("loadwallet", self.WALLET)
        except RPCFailure:  # the first start
            self.rpc("createwallet", self.WALLET)

    def mining_address(self):
        return self.rpc("getnewaddress")

    def pay(self, address, amount):
        """Send coins to an address; the txid."""
        return self.rpc("sendtoaddress", address, amount)


class Litecoind(WalletNode):
    """Litecoin Core. With mweb=True the extension blocks start at height 432."""

    COIN = "Litecoin"
    NAME = "litecoind"
    WALLET = "w"
    MWEB_HEIGHT = 432

    def __init__(self, folder, *, mweb=False):
        super().__init__(folder)
        self.mweb = mweb

    def command(self):
        require(parts.litecoind(), "litecoind is not installed (apt-get install litecoind)")
        command = [parts.litecoind(), "-regtest", f"-datadir={self.folder}", "-server"]
        command += ["-txindex", "-listen=0", "-dnsseed=0", "-printtoconsole=0", "-keypool=100"]
        command += [f"-rpcuser={USER}", f"-rpcpassword={PASSWORD}", f"-rpcport={self.port}"]
        command += ["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", "-rpcworkqueue=64"]
        command += ["-fallbackfee=0.0001", "-acceptnonstdtxn=1", "-mempoolreplacement=1"]
        # Some tests make long chains of unconfirmed transactions.
        command += ["-limitancestorcount=200", "-limitdescendantcount=200", *NO_SELF_CHECKS]
        if not self.mweb:
            # Else the miner stops at height 431, waiting for a peg-in.
            command.append("-vbparams=mweb:4000000000:4000000001")
        return command

    def activate_mweb(self, amount=5):
        """Mine to the height where extension blocks start and peg some coins in."""
        short_of = self.MWEB_HEIGHT - 1 - self.height()
        if short_of > 0:
            self.mine(short_of)
        txid = self.pay(self.rpc("getnewaddress", "", "mweb"), amount)
        self.mine(1)
        return txid


class BitcoinSVNode(WalletNode):
    """The Bitcoin SV node."""

    COIN = "BitcoinSV"
    NAME = "bitcoin-sv"

    def command(self):
        require(parts.bitcoin_sv(), "the Bitcoin SV node is not in .run/cache (make parts)")
        command = [parts.bitcoin_sv(), "-regtest", f"-datadir={self.folder}", "-server"]
        command += ["-txindex", "-listen=0", "-dnsseed=0", "-printtoconsole=0", "-keypool=100"]
        command += [f"-rpcuser={USER}", f"-rpcpassword={PASSWORD}", f"-rpcport={self.port}"]
        command += ["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", "-rpcworkqueue=64"]
        command += ["-excessiveblocksize=1000000000", "-maxstackmemoryusageconsensus=100000000"]
        # Without the last one, wallet calls fail after a fork of six blocks.
        command += ["-minminingtxfee=0.00000500", "-disablesafemode=1", *NO_SELF_CHECKS]
        return command


class PublishingNode(BitcoinSVNode):
    """The Bitcoin SV node, which publishes by ZMQ: ``hashblock``, ``rawtx``."""

    def __init__(self, folder, topic):
        super().__init__(folder)
        self.topic = topic
        self.address = f"tcp://127.0.0.1:{free_port()}"

    def command(self):
        return [*super().command(), f"-zmqpub{self.topic}={self.address}"]


class Bcoin(Node):
    """bcoin, which keeps its chain in memory: a restart begins at the genesis block."""

    COIN = "Bitcoin"
    NAME = "bcoin"
    RAW_BLOCK = (False,)
    SEGWIT_HEIGHT = 432

    # The hash of all zeros, without a known key; tests that spend mine to a wallet's address.
    MINING_ADDRESS = "mfWxJ45yp2SFn7UciZyNpvDKrzbhyfKrY8"

    def words(self):
        """The command of its program, or None."""
        return parts.bcoin()

    def command(self):
        words = self.words()
        require(words, f"{self.NAME} is not in .run/cache, or node is missing (make parts)")
        command = [*words, "--network=regtest", f"--prefix={self.folder}", "--memory=true"]
        command += ["--index-tx=true", "--listen=false", "--no-dns=true", "--no-wallet=true"]
        command += ["--http-host=127.0.0.1", f"--http-port={self.port}", f"--api-key={PASSWORD}"]
        command += ["--log-level=warning"]
        return command

    def mining_address(self):
        return self.MINING_ADDRESS

    def activate_segwit(self):
        """Mine until transactions with witnesses are accepted."""
        self.mine(max(0, self.SEGWIT_HEIGHT - self.height()))


class Bcash(Bcoin):
    """bcash: bcoin for Bitcoin Cash as it was in 2018, when blocks had no order of their own."""

    COIN = "BitcoinCash"
    NAME = "bcash"

    def words(self):
        return parts.bcash()


ALL = (Litecoind, BitcoinSVNode, Bcoin, Bcash)
