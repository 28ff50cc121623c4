"""The scripts that a generated chain pays to, and how popular each is.

Most outputs go to a script that is used once.  The others go to a population that is made
beforehand, in four groups, so that an index has histories of every length to answer for:

* hubs: half a dozen, the first of which takes part in about a tenth of all transactions;
* services: hundreds of transactions each;
* regulars: about twenty each;
* the crowd: few each, until a busy block pays to all of them at once.

How often each was touched is counted exactly.  One thread; no I/O.
"""

from dataclasses import dataclass

P2PKH, P2SH_P2WPKH, P2SH_MULTISIG, P2WPKH, P2WSH, P2TR = range(6)
#: of a hundred scripts
SHARES = {P2PKH: 22, P2SH_P2WPKH: 12, P2SH_MULTISIG: 6, P2WPKH: 42, P2WSH: 5, P2TR: 13}
KINDS = [kind for kind, share in SHARES.items() for _ in range(share)]
#: kind -> what an output has before and after the hash or key, and how long that is; the length
#: of the script, which precedes it on the wire, included
FRAMES = {
    P2PKH: (b"\x19\x76\xa9\x14", 20, b"\x88\xac"),
    P2SH_P2WPKH: (b"\x17\xa9\x14", 20, b"\x87"),
    P2SH_MULTISIG: (b"\x17\xa9\x14", 20, b"\x87"),
    P2WPKH: (b"\x16\x00\x14", 20, b""),
    P2WSH: (b"\x22\x00\x20", 32, b""),
    P2TR: (b"\x22\x51\x20", 32, b""),
}
FRAME_OF = [FRAMES[kind] for kind in KINDS]

HUBS = 6
HUB_SHARE = 0.06
SERVICE_SHARE = 0.11
REGULAR_SHARE = 0.20
CROWD_SHARE = 0.02
#: transactions of the chain for each service, each regular
TXS_PER_SERVICE = 400
TXS_PER_REGULAR = 20
#: no entry of the population: a script that is used once
NOBODY = -1


@dataclass(slots=True)
class Owner:
    """A script as it is paid to: length and script, unlocking bytes, place in the population."""

    script: bytes
    kind: int
    number: int


class Population:
    """Chooses the payees; counts the transactions of each.

    random: a random.Random, which the whole chain draws from
    """

    def __init__(self, random, txs, crowd):
        self._draw = random.random
        self._bytes = random.randbytes
        sizes = (HUBS, max(20, txs // TXS_PER_SERVICE), max(100, txs // TXS_PER_REGULAR), crowd)
        members = []
        for size in sizes:
            start = len(members)
            members += [Owner(*self._new_script(), number) for number in range(start, start + size)]
        ends = [sum(sizes[: n + 1]) for n in range(4)]
        self.members = members
        self.hubs = members[: ends[0]]
        self.services = members[ends[0] : ends[1]]
        self.regulars = members[ends[1] : ends[2]]
        self.crowd = members[ends[2] :]
        #: transactions that touch each member
        self.touched = [0] * len(members)

    def _new_script(self):
        number = int(self._draw() * 100)
        before, length, after = FRAME_OF[number]
        return before + self._bytes(length) + after, KINDS[number]

    def choose(self):
        """The payee of an output: a triple as of Owner, which are too slow to make."""
        draw = self._draw
        share = draw()
        if share >= HUB_SHARE + SERVICE_SHARE + REGULAR_SHARE + CROWD_SHARE:
            number = int(draw() * 100)
            before, length, after = FRAME_OF[number]
            return before + self._bytes(length) + after, KINDS[number], NOBODY
        if share < REGULAR_SHARE:
            group, place = self.regulars, draw()
        elif share < REGULAR_SHARE + SERVICE_SHARE:
            group, place = self.services, draw() ** 2
        elif share < REGULAR_SHARE + SERVICE_SHARE + CROWD_SHARE:
            group, place = self.crowd, draw()
        else:
            group, place = self.hubs, draw() ** 3
        owner = group[int(place * len(group))]
        return owner.script, owner.kind, owner.number

    def count(self, numbers):
        """A transaction touches these members; a set, with or without ``NOBODY``."""
        touched = self.touched
        for number in numbers:
            if number >= 0:
                touched[number] += 1
