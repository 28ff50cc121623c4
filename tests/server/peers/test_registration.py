"""Our registration with peers."""

import logging

import pytest
from aiorpcx import RPCError, Service, TaskTimeout

from electrumx.lib.peer import Peer
from electrumx.server.peers.registration import Registration
from electrumx.server.peers.session import BadPeerError, PeerConnectionLostError
from tests.fakes.peer_world import HANG_UP, LAN_HOST, OURSELF, add, make_env, peer_server

LOGGER = logging.getLogger("electrumx.registration")


@pytest.mark.parametrize(
    ("reported", "settings", "registered"),
    [
        ([], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000"]]], {}, False),
        ([["127.0.0.9", "127.0.0.9", ["t5001"]]], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000", "s1"]]], {}, True),
        ([], {"peer_announce": False}, False),
        ([], {"report_services": []}, False),
        ([], {"report_services": [Service.from_string("tcp://abc.onion:5")]}, False),
    ],
)
async def test_we_register_with_peers_that_do_not_know_us(
    make_manager, reported, settings, registered
):
    async with peer_server(server__peers__subscribe=reported) as script:
        manager = make_manager(make_env(report=[OURSELF], **settings))
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        sent = [args for method, args in script.requests if method == "server.add_peer"]
        assert len(sent) == registered
        if registered:
            assert sent[0][0]["hosts"] == {"127.0.0.9": {"tcp_port": 5000}}


async def test_a_refusal_to_add_us_does_not_count_against_a_peer(make_manager):
    async with peer_server(server__add_peer=RPCError(1, "too busy")) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.last_good


async def test_hanging_up_at_add_peer_is_bad(make_manager, caplog):
    async with peer_server(server__add_peer=HANG_UP) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.bad
        assert "terminated before server.add_peer response" in caplog.text


async def test_we_do_not_register_when_we_are_not_public(make_manager):
    async with peer_server() as script:
        manager = make_manager(
            make_env(report=[OURSELF]), is_public=lambda peer: peer.host == LAN_HOST
        )
        await add(manager, f"{LAN_HOST} t{script.port}")

        assert "server.add_peer" not in script.methods()


# --- The registration alone


class FakeSession:
    """Answers the one request that a registration makes; an exception is raised."""

    def __init__(self, answer=True):
        self.requests = []
        self.answer = answer

    async def send_request(self, method, args):
        self.requests.append((method, args))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def peer_of(real_name):
    return Peer.from_real_name(real_name, "test")


def make_registration(*myselves, private=(), **settings):
    return Registration(
        make_env(**settings), myselves, lambda peer: peer.host not in private, LOGGER
    )


def test_we_register_as_our_first_name_that_is_not_on_tor():
    names = [peer_of(name) for name in ("a.onion t1", "a.example t2", "b.example t3")]
    registration = make_registration(*names)

    assert registration.clearnet_self() is names[1]
    assert registration.features_for(peer_of("c.example t4"), []) is names[1].features
    assert make_registration(names[0]).clearnet_self() is None


def test_some_peers_are_sent_no_features():
    ourself, other = peer_of("a.example t1 s2"), peer_of("b.example t1 s2")
    knows_us = [other, peer_of("A.Example t1 s2")]

    assert make_registration(ourself).features_for(ourself, []) is None
    assert make_registration(ourself).features_for(other, knows_us) is None
    assert make_registration(ourself).features_for(other, [peer_of("a.example t1")])
    assert make_registration(ourself, peer_announce=False).features_for(other, []) is None
    assert make_registration(ourself, private=["a.example"]).features_for(other, []) is None
    assert make_registration().features_for(other, []) is None


@pytest.mark.parametrize("answer", [True, False, {"junk": []}, RPCError(1, "no\nway" * 1000)])
async def test_whatever_a_peer_answers_is_no_fault_of_it(answer, caplog):
    session = FakeSession(answer)
    await make_registration().register(session, peer_of("b.example t1"), {"hosts": {}})

    assert session.requests == [("server.add_peer", [{"hosts": {}}])]
    assert "[b.example] registering ourself with it" in caplog.text
    assert all(len(line) < 200 for line in caplog.messages)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PeerConnectionLostError("connection lost"), BadPeerError),
        (OSError("no route"), OSError),
        (TaskTimeout(5), TaskTimeout),
    ],
)
async def test_a_connection_that_is_lost_at_the_registration_is_a_fault(error, raised):
    with pytest.raises(raised) as caught:
        await make_registration().register(FakeSession(error), peer_of("b.example t1"), {})

    assert type(caught.value) is raised
