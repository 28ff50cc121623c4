"""Real wallets: Electrum as Debian ships it, driven through its own RPC, and BDK.

Synchronous; asynchronous tests call through `asyncio.to_thread`.
"""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path

from tests.conftest import require
from tests.integration import parts
from tests.integration.processes import Child
from tests.ports import free_port

START_SECS = 150
STOP_SECS = 30
PASSWORD = "p"
LITECOIN_LAUNCHER = Path(__file__).resolve().parent / "electrum_litecoin.py"


class WalletError(Exception):
    """The wallet refused a command."""


class ElectrumWallet:
    """An Electrum daemon with one wallet, connected to one server.

    litecoin: its regtest is Litecoin's. server: "HOST:PORT:t" or "HOST:PORT:s".
    """

    def __init__(self, folder, server, *, litecoin=False):
        require(parts.electrum(), "electrum is not installed (apt-get install electrum)")
        self.folder = folder
        self.server = server
        self.port = free_port()
        self.child = None
        self.program = [parts.electrum()]
        if litecoin:
            self.program = ["/usr/bin/python3", str(LITECOIN_LAUNCHER)]

    def start(self):
        """Start it with a new wallet, or the one that the folder has; returns self."""
        regtest = self.folder / "regtest"
        regtest.mkdir(parents=True, exist_ok=True)
        settings = {
            "rpcuser": "u",
            "rpcpassword": PASSWORD,
            "check_updates": False,
            "dynamic_fees": False,
            "fee_per_kb": 2_000,
        }
        (regtest / "config").write_text(json.dumps(settings))
        command = [*self.program, "--regtest", "-D", self.folder, "daemon", "--oneserver", "-v"]
        command += ["--server", self.server, "--rpcsock", "tcp", "--rpchost", "127.0.0.1"]
        command += ["--rpcport", str(self.port)]
        env = {"HOME": str(self.folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.child = Child("electrum", command, folder=self.folder, env=env)
        try:
            self.child.wait_for(self._answers, what="answer to RPC", timeout=START_SECS)
            if not (regtest / "wallets" / "default_wallet").exists():
                self.command("create")
            self.command("load_wallet")
        except BaseException:
            self.child.kill()
            raise
        return self

    def stop(self):
        """Stop it in order: all that the wallet knows stays in its folder."""
        child, self.child = self.child, None
        if child is None:
            return
        # A signal would end it before it has written what is new.
        with suppress(OSError, HTTPException, ValueError, WalletError):
            # It need not be there any more to answer.
            self.command("stop")
        with suppress(subprocess.TimeoutExpired):
            child.popen.wait(STOP_SECS)
        child.terminate()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_exc):
        self.stop()

    def _answers(self):
        try:
            return self.command("version")
        except (OSError, WalletError):
            return False

    def command(self, method, **params):
        """The result of one of Electrum's commands, as its console would print it."""
        payload = {"id": 0, "jsonrpc": "2.0", "method": method, "params": params}
        token = base64.b64encode(f"u:{PASSWORD}".encode()).decode()
        url = f"http://127.0.0.1:{self.port}/"
        headers = {"Authorization": f"Basic {token}"}
        request = urllib.request.Request(url, json.dumps(payload).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                answer = json.loads(reply.read())
        except urllib.error.HTTPError as e:
            with e:
                raise WalletError(f"{method}: HTTP {e.code}") from None
        if answer.get("error") is not None:
            raise WalletError(f"{method}: {answer['error']}")
        return answer["result"]

    # --- what a user does

    def wait(self, condition, *, what, timeout=120):
        """Poll until condition() is true, with the wallet's log in the message if it is not."""
        return self.child.wait_for(condition, what=what, timeout=timeout)

    def wait_connected(self, height=None, *, timeout=120):
        """Wait until it is connected and follows the chain, up to a height if given."""

        def ready():
            info = self.command("getinfo")
            at_height = height is None or info.get("blockchain_height") == height
            return info["connected"] and at_height

        self.wait(ready, what=f"connection at height {height}", timeout=timeout)

    def new_address(self):
        """An address that was not given out before."""
        return self.command("createnewaddress")

    def balance(self):
        """Decimal coins by kind: confirmed, unconfirmed, unmatured."""
        told = self.command("getbalance")
        kinds = ("confirmed", "unconfirmed", "unmatured")
        return {kind: Decimal(told.get(kind, "0")) for kind in kinds}

    def wait_balance(self, *, timeout=120, **expected):
        """Wait until balances are as expected: wait_balance(confirmed="1.5")."""
        wanted = {kind: Decimal(value) for kind, value in expected.items()}

        def equal():
            balance = self.balance()
            return all(balance[kind] == value for kind, value in wanted.items())

        self.wait(equal, what=f"balance {expected}", timeout=timeout)

    def wait_proven(self):
        """Wait until it has a proof for each of its transactions, which are all in blocks.

        A balance counts as confirmed before.  If a proof arrives while the wallet still looks for
        the headers of another branch, it does not fit, and Electrum 4.3 gives up verifying.
        """

        def proven():
            history = self.history()
            return history and all(tx["confirmations"] > 0 for tx in history)

        self.wait(proven, what="proofs")

    def history(self):
        """Its transactions, oldest first: dictionaries with txid, height, confirmations ..."""
        history = self.command("onchain_history")
        # Newer ones return the list alone.
        return history if isinstance(history, list) else history["transactions"]

    def pay(self, address, amount):
        """Make, sign and broadcast a payment; the txid."""
        raw = self.command("payto", destination=address, amount=str(amount), feerate=2)
        return self.command("broadcast", tx=raw)


class BDKWallet:
    """A BDK wallet in memory, with native segwit addresses, on Bitcoin's regtest."""

    def __init__(self, url, *, seed=b"\x07" * 16):
        try:
            import bdkpython
        except ImportError:
            bdkpython = None
        require(bdkpython, "bdkpython is not installed (the extra test has it)")
        self.bdk = bdk = bdkpython
        self.client = bdk.ElectrumClient(url, validate_domain=False)
        key = bdk.DescriptorSecretKey(bdk.NetworkKind.TEST, bdk.Mnemonic.from_entropy(seed), None)
        external, internal = (
            bdk.Descriptor.new_bip84(key, kind, bdk.NetworkKind.TEST)
            for kind in (bdk.KeychainKind.EXTERNAL, bdk.KeychainKind.INTERNAL)
        )
        persister = bdk.Persister.new_in_memory()
        self.wallet = bdk.Wallet(external, internal, bdk.Network.REGTEST, persister)

    def new_address(self):
        """An address that was not given out before."""
        return str(self.wallet.reveal_next_address(self.bdk.KeychainKind.EXTERNAL).address)

    def full_scan(self):
        """Look for the wallet's coins from nothing."""
        request = self.wallet.start_full_scan().build()
        self.wallet.apply_update(self.client.full_scan(request, 20, 10, True))

    def sync(self):
        """Bring the addresses given out so far up to date."""
        request = self.wallet.start_sync_with_revealed_spks().build()
        self.wallet.apply_update(self.client.sync(request, 10, True))

    def wait_total(self, satoshis, *, timeout=120):
        """Sync until the balance is as expected."""
        deadline = time.monotonic() + timeout
        while True:
            self.sync()
            total = self.wallet.balance().total.to_sat()
            if total == satoshis:
                return
            assert time.monotonic() < deadline, f"{total} satoshis, expected {satoshis}"
            time.sleep(0.1)

    def pay(self, address, satoshis):
        """Make, sign and broadcast a payment; the txid."""
        bdk = self.bdk
        script = bdk.Address(address, bdk.Network.REGTEST).script_pubkey()
        builder = bdk.TxBuilder().add_recipient(script, bdk.Amount.from_sat(satoshis))
        psbt = builder.fee_rate(bdk.FeeRate.from_sat_per_vb(2)).finish(self.wallet)
        self.wallet.sign(psbt)
        tx = psbt.extract_tx()
        self.client.transaction_broadcast(tx)
        return str(tx.compute_txid())
