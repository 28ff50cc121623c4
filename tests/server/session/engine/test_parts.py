"""The parts of a session, each without the others' server: account, send queue, handlers."""

import asyncio
from dataclasses import replace

import pytest
from aiorpcx import RPCError

from electrumx.server.session.engine import send_queue
from electrumx.server.session.engine.cost_account import CostAccount, FreeAccount
from electrumx.server.session.engine.jsonrpc import V1, V2, Notification, Request
from electrumx.server.session.engine.method_registry import (
    INVALID_METHOD,
    SessionMethods,
    rpc_method,
)
from electrumx.server.session.engine.request_stats import RequestStats
from electrumx.server.session.engine.send_queue import SendQueue
from electrumx.server.session.engine.session_counts import SessionCounts
from electrumx.server.session.engine.session_limits import UNLIMITED, SessionLimits

LIMITS = SessionLimits(
    cost_soft_limit=1000,
    cost_hard_limit=10_000,
    bw_cost_per_byte=0.5,
    cost_sleep=2.0,
    initial_concurrent=10,
    processing_timeout=30,
)


class Owner:
    """The session, as its parts use it."""

    def __init__(self):
        self.extra = 0.0
        self.logged = []
        self.hard_limits = 0
        self.throttlings = []

    def extra_cost(self):
        return self.extra

    def note_end(self, reason):
        pass

    def log_limited(self, kind, text, level=0):
        self.logged.append(text)

    def on_hard_limit(self):
        self.hard_limits += 1

    def on_throttled(self, *, throttled):
        self.throttlings.append(throttled)


class Transport:
    """A client that reads, or not."""

    is_writable = True
    has_lines = True

    def __init__(self):
        self.sent = []
        self.queued = 0
        self.is_aborted = False

    def send(self, messages):
        self.sent += messages

    def note_queued(self, size):
        self.queued = size

    def is_closing(self):
        return self.is_aborted

    def abort(self):
        self.is_aborted = True


# -- the account


def test_a_cost_between_the_limits_halves_the_concurrency():
    account = CostAccount(owner := Owner(), LIMITS)
    account.bump_cost(5_600)
    assert account.concurrency_target == 5
    assert account.cost_fraction == pytest.approx(0.511, abs=1e-3)
    assert owner.logged == ["changing task concurrency from 10 to 5"]
    assert not account.is_over_limit()


def test_the_owner_learns_when_throttling_begins_and_ends():
    account = CostAccount(owner := Owner(), LIMITS)
    account.bump_cost(5_600)
    account.bump_cost(1_000)
    account.bump_cost(-6_600)
    assert owner.throttlings == [True, False]
    account.bump_cost(5_600)
    account.set_limits(UNLIMITED)
    assert owner.throttlings == [True, False, True, False]
    assert account.cost_fraction == 0


def test_what_the_group_adds_counts_towards_the_hard_limit():
    account = CostAccount(owner := Owner(), LIMITS)
    owner.extra = 9_000.0
    account.bump_cost(1_500)
    assert account.is_over_limit()
    assert owner.hard_limits == 1


def test_lenient_accounts_are_throttled_later():
    account = CostAccount(Owner(), LIMITS)
    account.leniency = 50.0
    account.bump_cost(10_000)
    assert account.concurrency_target == 10


def test_a_refund_never_makes_a_cost_negative():
    account = CostAccount(Owner(), LIMITS)
    account.bump_cost(5)
    account.bump_cost(-50)
    assert account.cost == 0


def test_no_session_is_throttled_without_a_range_between_the_limits():
    account = CostAccount(Owner(), replace(LIMITS, cost_soft_limit=0, cost_hard_limit=0))
    account.bump_cost(10**9)
    assert (account.concurrency_target, account.is_over_limit()) == (10, False)


def test_a_free_account_counts_errors_and_costs_nothing():
    account = FreeAccount(Owner(), UNLIMITED)
    account.bump_errors(RPCError(1, "no", cost=500.0))
    account.recalc_concurrency()
    assert (account.errors, account.cost, account.limited) == (1, 0, False)


def test_an_account_outlives_its_session():
    account = CostAccount(owner := Owner(), LIMITS)
    owner.extra = 20_000.0
    account.on_lost()
    account.bump_cost(1_500)
    assert account.effective_cost() == pytest.approx(1_500, abs=1)


# -- the send queue


def make_queue():
    account = CostAccount(owner := Owner(), LIMITS)
    return SendQueue(Transport(), account, owner, SessionCounts()), account, owner


def test_messages_are_charged_by_the_byte_and_written_together():
    queue, account, _ = make_queue()
    queue.post(b"first")
    queue.post(b"second")
    assert queue.transport.sent == []
    assert queue.counts.sent == 0
    queue.flush()
    assert queue.transport.sent == [b"first", b"second"]
    assert queue.counts.sent == 11
    assert (queue.send_count, queue.send_size, account.cost) == (2, 11, 5.5)


def test_joined_lines_count_as_messages_and_are_split_where_messages_are_no_lines():
    queue, account, _ = make_queue()
    queue.transport.has_lines = False
    queue.post_lines(b"one\ntwo", 2)
    queue.flush()
    assert queue.transport.sent == [b"one", b"two"]
    assert (queue.send_count, queue.send_size, account.cost) == (2, 6, 3.0)


def test_notifications_are_written_in_the_version_of_the_client():
    queue, _, _ = make_queue()
    queue.rpc_version = V1
    queue.post_notification("a", (1,))
    queue.flush()
    assert queue.transport.sent == [b'{"method":"a","params":[1],"id":null}']


async def let_timers_run():
    """Return when timers that are due have run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_slow_reader_is_disconnected_unless_it_reads_again(monkeypatch):
    monkeypatch.setattr(send_queue, "MAX_SEND_DELAY", 0.0)
    queue, _, owner = make_queue()
    queue.transport.is_writable = False
    queue.send_message(b"held")
    assert (queue.transport.sent, queue.transport.queued) == ([], 4)
    queue.unwatch_reader()
    await let_timers_run()
    assert not queue.transport.is_aborted
    queue.flush()
    await let_timers_run()
    assert queue.transport.is_aborted
    assert owner.logged == ["connection aborted: the client does not read its replies"]


def test_nothing_is_sent_after_the_end():
    queue, _, _ = make_queue()
    queue.on_lost()
    queue.send_message(b"late")
    queue.post_notification("late", ())
    queue.flush()
    assert (queue.transport.sent, queue.send_count, queue.is_closing()) == ([], 0, True)


# -- the handlers


class Greetings:
    @rpc_method("hello")
    def hello(self, name="you"):
        return f"hello {name}"

    @rpc_method("old", until=(1, 5))
    def old(self):
        return "old"


class Extended:
    @rpc_method("hello")
    def welcome(self, name):
        return f"welcome {name}"


def ask(methods, method, /, *args, **named):
    return methods.call(Request(method, named or list(args), 1, V2, 0))


def test_of_handlers_of_one_request_the_last_object_answers():
    methods = SessionMethods((Greetings(), Extended()), RequestStats())
    methods.set_version((1, 4))
    assert ask(methods, "hello", "there") == "welcome there"
    assert ask(methods, "hello", name="there") == "welcome there"
    assert ask(methods, "old") == "old"
    assert methods.stats.started() == {"hello": 2, "old": 1}


def test_a_version_has_its_own_requests():
    methods = SessionMethods((Greetings(),), RequestStats())
    methods.set_version((1, 5))
    with pytest.raises(RPCError) as info:
        ask(methods, "old")
    assert (info.value.code, info.value.message) == (-32601, 'unknown method "old"')
    assert methods.stats.started() == {INVALID_METHOD: 1}


def test_arguments_that_do_not_fit_are_refused():
    methods = SessionMethods((Greetings(),), RequestStats())
    methods.set_version((1, 4))
    with pytest.raises(RPCError) as info:
        ask(methods, "hello", 1, 2)
    assert info.value.code == -32602
    with pytest.raises(RPCError):
        ask(methods, "hello", nobody=1)


def test_notifications_of_clients_have_no_handlers():
    methods = SessionMethods((Greetings(),), RequestStats())
    methods.set_version((1, 4))
    with pytest.raises(RPCError):
        methods.call(Notification("hello", []))


def test_handlers_are_found_by_class():
    methods = SessionMethods((greetings := Greetings(), Extended()), RequestStats())
    assert methods.find(Greetings) is greetings
    with pytest.raises(KeyError):
        methods.find(int)
