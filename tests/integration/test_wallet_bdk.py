"""BDK over TLS with a self-signed certificate, and its view of unconfirmed payments."""

import pytest

from tests.integration.server import wait_until
from tests.integration.wallets import BDKWallet

pytestmark = [pytest.mark.daemon, pytest.mark.wallet]

COIN = 10**8


@pytest.mark.parametrize("protocol", ["tcp", "ssl"])
def test_a_payment_is_seen_before_and_after_its_confirmation(protocol, bcoin, server_for):
    bcoin.activate_segwit()
    server = server_for(bcoin)
    url = f"{protocol}://127.0.0.1:{server.ports[protocol]}"
    payer, payee = BDKWallet(url, seed=b"\x01" * 16), BDKWallet(url, seed=b"\x02" * 16)
    bcoin.mine(1, payer.new_address())
    bcoin.mine(100)
    server.wait_height(bcoin.height())
    payer.full_scan()
    rich = payer.wallet.balance().total.to_sat()
    assert rich > COIN

    txid = payer.pay(payee.new_address(), COIN)
    # bcoin answers a broadcast before it has looked at the transaction.
    wait_until(lambda: txid in bcoin.rpc("getrawmempool"), what="payment in the mempool")
    payee.wait_total(COIN)
    assert payee.wallet.balance().confirmed.to_sat() == 0
    bcoin.mine(1)
    server.wait_height(bcoin.height())
    payee.sync()
    assert payee.wallet.balance().confirmed.to_sat() == COIN
    payer.sync()
    assert rich - COIN - 10_000 < payer.wallet.balance().total.to_sat() < rich - COIN
    assert "Traceback" not in server.log()
