"""Two Electrum wallets, one over TCP and one over TLS, pay each other through one server."""

from decimal import Decimal

import pytest

pytestmark = [pytest.mark.daemon, pytest.mark.wallet, pytest.mark.slow]


def test_a_payment_from_wallet_to_wallet_is_seen_at_once_and_confirmed_later(
    litecoind, server_for, electrum_for
):
    litecoind.mine(101)
    server = server_for(litecoind)
    payer = electrum_for(server, transport="t", litecoin=True, name="payer")
    payee = electrum_for(server, transport="s", litecoin=True, name="payee")
    litecoind.pay(payer.new_address(), 5)
    # Before any block
    payer.wait_balance(unconfirmed=5)
    litecoind.mine(1)
    payer.wait_balance(confirmed=5, unconfirmed=0)

    txid = payer.pay(payee.new_address(), "1.25")
    payee.wait_balance(unconfirmed="1.25")
    assert [(item["txid"], item["height"]) for item in payee.history()] == [(txid, 0)]
    litecoind.mine(1)
    for wallet in (payer, payee):
        wallet.wait_connected(litecoind.height())
        wallet.wait(
            lambda wallet=wallet: wallet.history()[-1]["confirmations"] == 1, what="confirmation"
        )
        assert wallet.history()[-1]["txid"] == txid
        assert wallet.history()[-1]["height"] == litecoind.height()
    payee.wait_balance(confirmed="1.25", unconfirmed=0)

    # And crosswise, in one block
    payee.pay(payer.new_address(), "0.5")
    payer.pay(payee.new_address(), "3")
    litecoind.mine(1)
    for wallet, transactions in ((payer, 4), (payee, 3)):
        wallet.wait_connected(litecoind.height())
        # It may have the block before the payment of which it is not yet notified.
        wallet.wait(
            lambda wallet=wallet, transactions=transactions: len(wallet.history()) == transactions,
            what="the other wallet's payment",
        )
        wallet.wait_balance(unconfirmed=0)
    fees = 5 - sum(wallet.balance()["confirmed"] for wallet in (payer, payee))
    assert 0 < fees < Decimal("0.001")
    kinds = {row[1][0] for row in server.rpc("sessions")}
    assert kinds == {"T", "S", "R"}
    assert "Traceback" not in server.log()
