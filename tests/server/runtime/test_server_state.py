"""The state of the server, by the reports of its parts."""

import pytest

from electrumx.server.runtime.node_contact import Cause, NodeContact
from electrumx.server.runtime.server_state import (
    IndexProgress,
    ReadyLimits,
    ServerState,
    State,
    rough_time,
)


class World:
    """The parts of a server, and a clock, which tests set."""

    def __init__(self):
        self.time = 1000.0
        self.contact = NodeContact(lambda: self.time)
        self.node_height = None
        self.progress = None
        self.stopping = False
        self.state = ServerState(
            self.contact,
            lambda: self.node_height,
            lambda: self.progress,
            lambda: self.stopping,
            ReadyLimits(max_lag=2, node_secs=120),
        )

    def exchange(self):
        self.contact.asked()
        self.contact.replied()

    def at_heights(self, flushed, node, *, processed=None, first_sync=False, **values):
        processed = flushed if processed is None else processed
        fields = {"tx_count": 10, "percent": 44.4, "phase": None, "eta_secs": 10_800.0} | values
        self.progress = IndexProgress(processed, flushed, first_sync=first_sync, **fields)
        self.node_height = node
        self.exchange()


@pytest.fixture
def world():
    return World()


def test_starts_and_waits_for_the_node(world):
    status = world.state.status()

    assert (status.state, status.ready, status.height) == (State.STARTING, False, -1)
    assert status.first_sync
    assert status.lag is None
    assert status.text() == "starting: waiting for the node"


def test_reason_at_start_has_the_failure_and_its_method(world):
    world.contact.asked()
    world.contact.failed(Cause.REFUSED, "getblockcount", "connection refused")

    text = "starting: waiting for the node: connection refused (getblockcount)"
    assert world.state.status().text() == text


def test_first_sync_has_its_progress_in_words(world):
    world.at_heights(-1, 930_120, processed=412_000, first_sync=True)
    status = world.state.status()

    assert (status.state, status.ready, status.first_sync) == (State.SYNCING, False, True)
    assert status.text() == ("syncing: height 412,000 of 930,120 (44 %), about 3 h to go")


def test_before_the_first_block_there_is_no_height(world):
    world.at_heights(-1, 930_120, processed=-1, first_sync=True, percent=0.0, eta_secs=None)

    assert world.state.status().text() == "syncing: no block of 930,120 yet (0 %)"


def test_phase_of_a_bulk_sync_is_part_of_the_progress(world):
    world.at_heights(-1, 500, processed=500, first_sync=True, phase="history", eta_secs=None)

    assert world.state.status().progress_text() == "height 500 of 500 (history 44 %)"


def test_catching_up_ends_at_the_allowed_lag(world):
    world.state.set_serving()
    world.at_heights(97, 100)
    behind = world.state.status()
    world.at_heights(98, 100)
    close = world.state.status()

    assert (behind.state, behind.ready, behind.lag) == (State.CATCHING_UP, False, 3)
    assert behind.reason == "3 blocks behind the node"
    assert (close.state, close.ready, close.lag, close.reason) == (State.SERVING, True, 2, "")


def test_server_at_the_tip_is_not_ready_before_wallets_are_served(world):
    world.at_heights(100, 100)
    before = world.state.status()
    world.state.set_serving()

    assert (before.state, before.reason) == (State.CATCHING_UP, "reading the mempool")
    assert before.text() == "catching up: reading the mempool"
    assert world.state.state is State.SERVING
    assert world.state.status().text() == "serving: height 100"


def test_node_below_our_height_is_no_lag(world):
    world.state.set_serving()
    world.at_heights(100, 90)

    assert world.state.status().lag == 0
    assert world.state.status().ready


def test_reason_names_a_node_that_is_below_our_height(world):
    world.at_heights(100, 90)

    text = "catching up: the node is at height 90, below ours, 100"
    assert world.state.status().text() == text


def test_silent_node_is_lost_after_its_time(world):
    world.state.set_serving()
    world.at_heights(100, 100)
    world.time += 5
    world.contact.asked()
    world.time += 115
    in_time = world.state.state
    world.time += 1
    status = world.state.status()
    world.exchange()

    assert in_time is State.SERVING
    assert (status.state, status.ready, status.node_age_secs) == (State.NODE_LOST, False, 121)
    assert status.reason == "no reply of the node for 02m 01s"
    assert world.state.state is State.SERVING


def test_node_that_was_not_asked_is_not_lost(world):
    world.state.set_serving()
    world.at_heights(100, 100)
    world.time += 3600
    unasked = world.state.state
    world.contact.asked()
    asked = world.state.state
    world.time += 5

    assert (unasked, asked) == (State.SERVING, State.SERVING)
    assert world.state.state is State.NODE_LOST


def test_node_that_never_answered_is_lost_after_its_time(world):
    world.contact.asked()
    world.time += 121
    world.contact.failed(Cause.UNKNOWN_HOST, "getblockcount", "unknown host")

    assert world.state.status().text() == (
        "node lost: waiting for the node: unknown host (getblockcount)"
    )


def test_failure_is_kept_when_the_node_answers_again(world):
    world.contact.asked()
    world.contact.failed(Cause.FORBIDDEN, "getindexinfo", "Forbidden")
    failing = world.state.status().node_failing
    world.time += 1
    world.contact.replied()
    status = world.state.status()

    assert (failing, status.node_failing) == (True, False)
    assert (status.node_failure.cause, status.node_failure.method) == ("403", "getindexinfo")


def test_stopping_precedes_all_else(world):
    world.state.set_serving()
    world.at_heights(100, 100)
    world.stopping = True
    status = world.state.status()

    assert (status.state, status.ready) == (State.STOPPING, False)
    assert status.text() == "stopping: the server is stopping"


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (0, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (10_800, "3 h"),
        (129_599, "36 h"),
        (259_200, "3 d"),
    ],
)
def test_estimate_has_one_unit(secs, text):
    assert rough_time(secs) == text
