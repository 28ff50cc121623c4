"""Starts Debian's Electrum with its regtest turned into Litecoin's.

Run by the system's Python, which has Electrum's modules: `python3 electrum_litecoin.py ARGUMENTS`.
"""

import runpy
import sys

from electrum.constants import BitcoinRegtest

BitcoinRegtest.GENESIS = "530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9"
BitcoinRegtest.SEGWIT_HRP = BitcoinRegtest.BOLT11_HRP = "rltc"
BitcoinRegtest.ADDRTYPE_P2SH = 58

sys.argv[0] = "/usr/bin/electrum"
runpy.run_path(sys.argv[0], run_name="__main__")
