"""The fake node in a thread of its own, for servers in other processes.

Tests change the node by `NodeThread.do`, which runs a function in the node's thread.
"""

import asyncio
import threading

from tests.fakes.fake_node import FakeNode


class NodeThread:
    """A FakeNode, or one like it, that serves until the block is left."""

    def __init__(self, blocks=(), *, node=None):
        self.node = node or FakeNode(blocks)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def _await(self, coro):
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(60)

    def __enter__(self):
        self._thread.start()
        self._await(self.node.start())
        return self

    def __exit__(self, *_exc):
        self._await(self.node.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop_node(self):
        """End the node's connections, and accept no others."""
        self._await(self.node.stop())

    def do(self, func, *args):
        """The result of a function of the node, run where the node runs."""

        async def call():
            return func(self.node, *args)

        return self._await(call())

    @property
    def env(self):
        """The server's settings that depend on the node."""
        return {"COIN": "Bitcoin", "NET": "regtest", "DAEMON_URL": self.node.url}
