"""Real wallets see, receive, spend and survive a reorganisation through our server."""

from decimal import Decimal

import pytest

from tests.integration.server import wait_until
from tests.integration.wallets import ElectrumWallet
from tests.ports import free_port

pytestmark = [pytest.mark.daemon, pytest.mark.wallet]

COIN = 10**8


def reward(height):
    """Coins that a block on regtest makes."""
    return Decimal(50) / 2 ** (height // 150)


def wait_in_mempool(node, txid):
    # bcoin answers a broadcast before it has looked at the transaction.
    wait_until(lambda: txid in node.rpc("getrawmempool"), what=f"{txid} in the mempool")


@pytest.mark.parametrize("transport", ["t", "s"])
@pytest.mark.parametrize("kind", ["Litecoin", "Bitcoin"])
def test_electrum_receives_pays_and_sees_it_confirmed(
    kind, transport, request, server_for, electrum_for
):
    litecoin = kind == "Litecoin"
    node = request.getfixturevalue("litecoind" if litecoin else "bcoin")
    if litecoin:
        node.mine(1)
    else:
        node.activate_segwit()
    coins = reward(node.height() + 1)
    server = server_for(node)
    wallet = electrum_for(server, transport=transport, litecoin=litecoin)
    node.mine(2, wallet.new_address())
    node.mine(98)  # the first reward is mature now, the second one block later
    wallet.wait_connected(node.height())
    wallet.wait_balance(confirmed=coins, unmatured=coins)

    txid = wallet.pay(node.mining_address(), "1.5")
    wait_in_mempool(node, txid)
    node.mine(1)
    wallet.wait_connected(node.height())
    wallet.wait(
        lambda: wallet.history()[-1]["txid"] == txid and wallet.history()[-1]["confirmations"] == 1,
        what="confirmed payment",
    )
    spent = 2 * coins - sum(wallet.balance().values())
    assert Decimal("1.5") < spent < Decimal("1.51")


def test_electrum_follows_a_reorganisation(litecoind, server_for, electrum_for):
    litecoind.mine(101)
    server = server_for(litecoind)
    wallet = electrum_for(server, litecoin=True)
    litecoind.pay(wallet.new_address(), 3)
    litecoind.mine(1)
    wallet.wait_balance(confirmed=3)
    wallet.wait_proven()

    # The payment returns to the mempool and is mined again on the longer branch.
    litecoind.reorganise(1, extra=2)
    wallet.wait_connected(litecoind.height())
    wallet.wait_balance(confirmed=3)
    wallet.wait_proven()
    # A block that holds nothing: the payment is unconfirmed again.
    tip = litecoind.height()
    litecoind.rpc("invalidateblock", litecoind.rpc("getblockhash", tip - 2))
    for _ in range(4):
        litecoind.rpc("generateblock", litecoind.mining_address(), [])
    wallet.wait_connected(litecoind.height())
    wallet.wait_balance(confirmed=0, unconfirmed=3)


def test_electrum_finds_in_its_folder_the_addresses_it_gave_out_just_before_it_stopped(tmp_path):
    # It writes changes by itself only when it is synchronised with a server: here never.
    wallet = ElectrumWallet(tmp_path, f"127.0.0.1:{free_port()}:t", litecoin=True)
    with wallet:
        address = wallet.new_address()
    with wallet:
        assert address in wallet.command("listaddresses")


def test_a_wallet_made_again_from_its_folder_finds_its_history(litecoind, server_for, electrum_for):
    litecoind.mine(101)
    server = server_for(litecoind)
    wallet = electrum_for(server, litecoin=True)
    used, unused = wallet.new_address(), wallet.new_address()
    litecoind.pay(used, 3)
    litecoind.mine(1)
    wallet.wait_balance(confirmed=3)
    wallet.stop()
    server.restart()
    # This payment it can only know from the server.
    litecoind.pay(unused, 2)
    litecoind.mine(3)
    wallet.start()
    wallet.wait_connected(litecoind.height())
    wallet.wait_balance(confirmed=5)


def test_bdk_scans_pays_and_syncs(bcoin, server_for, bdk_for):
    bcoin.activate_segwit()
    server = server_for(bcoin)
    wallet = bdk_for(server)
    coins = int(reward(bcoin.height() + 1) * COIN)
    bcoin.mine(1, wallet.new_address())
    bcoin.mine(100)
    server.wait_height(bcoin.height())

    wallet.full_scan()
    wallet.wait_total(coins)
    txid = wallet.pay(bcoin.mining_address(), COIN)
    wait_in_mempool(bcoin, txid)
    bcoin.mine(1)
    server.wait_height(bcoin.height())
    wallet.sync()
    total = wallet.wallet.balance().total.to_sat()
    assert coins - COIN - 10_000 < total < coins - COIN

    # A second wallet of the same seed finds the same coins by itself.
    again = bdk_for(server)
    again.full_scan()
    again.wait_total(total)
