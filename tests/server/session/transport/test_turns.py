"""Waiting input of each connection is processed, whatever becomes of one of them."""

import asyncio

from electrumx.server.session.transport.turns import TurnQueue


class Waiting:
    """A connection with input, as the queue knows it."""

    def __init__(self, error=None):
        self.error = error
        self.turns = 0
        self.aborted = False

    def on_turn(self):
        self.turns += 1
        if self.error is not None:
            raise self.error

    def abort(self):
        self.aborted = True


async def test_a_turn_that_fails_ends_its_connection_and_no_other(caplog):
    queue = TurnQueue()
    connections = [Waiting(), Waiting(ValueError("broken")), Waiting(), Waiting()]
    for connection in connections:
        queue.add(connection)
    for _ in range(10):
        await asyncio.sleep(0)

    assert [connection.turns for connection in connections] == [1] * 4
    assert [connection.aborted for connection in connections] == [False, True, False, False]
    assert "a connection is dropped" in caplog.text
    assert "broken" in caplog.text
