"""Port numbers for the programs of tests, each given to one test process of this machine only.

A program that a test starts gets its port and listens on it a little later, or again after a
restart. In between no other may take it:

* not an outgoing connection, so ports are outside the range that the system gives to those;
* not another test process, a worker of the same run or another run. So each process claims whole
  blocks of ports, by a UDP socket bound to the block's first number, which ends with the process.
  Ports of TCP and UDP have nothing to do with each other.
"""

import os
import random
import socket
from pathlib import Path

BLOCK = 100
# Below are services of other people; above, numbers end at 65,535.
BLOCKS = range(10_000, 65_500, BLOCK)
# A long run begins again with its first block after so many.
MAX_BLOCKS = 10
HOST = "127.0.0.1"
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def outgoing_range():
    """The ports that the system gives to outgoing connections."""
    try:
        first, last = map(int, RANGE_FILE.read_text().split())
    except OSError:
        # IANA's range for this; not Linux, then.
        first, last = 49_152, 65_535
    return range(first, last + 1)


def _usable_blocks():
    taken = outgoing_range()
    blocks = [n for n in BLOCKS if n + BLOCK <= taken.start or n >= taken.stop]
    # A machine that gives away nearly all ports leaves no choice.
    return blocks or list(BLOCKS)


class Claims:
    """The blocks of one process."""

    def __init__(self):
        self.pid = os.getpid()
        self._sockets = []
        self._numbers = iter(())

    def close(self):
        """Give the blocks up."""
        for sock in self._sockets:
            sock.close()

    def _claim(self):
        """Claim one more block; its ports."""
        blocks = _usable_blocks()
        random.shuffle(blocks)
        for first in blocks:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.bind((HOST, first))
            except OSError:
                sock.close()
                continue
            self._sockets.append(sock)
            return range(first + 1, first + BLOCK)
        raise RuntimeError("other processes have claimed all ports for tests")

    def _run(self):
        blocks = []
        while len(blocks) < MAX_BLOCKS:
            blocks.append(self._claim())
            yield from blocks[-1]
        while True:
            for block in blocks:
                yield from block

    def next(self):
        """The next port of ours, with or without a listener."""
        if not self._sockets:
            self._numbers = self._run()
        return next(self._numbers)


#: those of this process; a fork gets its own
claims = Claims()


def _is_free(port):
    # There is no listener, and no connection to it is still being wound up.
    with socket.socket() as sock:
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count):
    """Different TCP ports without a listener, which no other test process is given."""
    global claims
    if claims.pid != os.getpid():
        # After a fork the blocks are still the parent's.
        claims = Claims()
    ports = []
    while len(ports) < count:
        port = claims.next()
        if _is_free(port):
            ports.append(port)
    return ports


def free_port():
    """One such port."""
    return free_ports(1)[0]
