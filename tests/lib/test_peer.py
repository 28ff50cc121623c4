"""The peer value: canonical features, kinds of host, real names, buckets, hostile input."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.peer import MAX_FEATURES_SIZE, MAX_OTHER_PORT_PAIRS, Peer, is_small_json

DEFAULT_PORTS = {"t": "50001", "s": "50002"}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1.2.3.4", "::1", "a.onion", "Host.com", "50001", "1.4"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)
feature_names = ["pruning", "server_version", "protocol_min", "protocol_max", "genesis_hash"]
hostile_features = st.fixed_dictionaries(
    {},
    optional={
        "hosts": json_values
        | st.dictionaries(
            st.text(max_size=30),
            json_values
            | st.fixed_dictionaries(
                {}, optional={"ssl_port": json_values, "tcp_port": json_values}
            ),
            max_size=4,
        ),
        **dict.fromkeys([*feature_names, "ssl_port", "tcp_port"], json_values),
    },
)


def make_peer(host="example.com", entry=None, **features):
    return Peer(host, {"hosts": {host: entry or {}}, **features})


# --- Construction


@pytest.mark.parametrize(
    ("host", "features"),
    [
        (1, {"hosts": {1: {}}}),
        ("a.com", ["hosts"]),
        ("a.com", {}),
        ("a.com", {"hosts": {"b.com": {}}}),
        ("a.com", {"hosts": ["a.com"]}),
        ("a", {"hosts": "a"}),
        ("a.com", {"hosts": None}),
    ],
)
def test_a_peer_must_be_among_the_hosts_of_its_features(host, features):
    with pytest.raises(AssertionError):
        Peer(host, features)


def test_features_are_copied_and_canonical_values_written_back():
    given_features = {"hosts": {"a.com": {"ssl_port": "443"}}, "pruning": -3, "extra": 1}
    peer = Peer("a.com", given_features)

    assert given_features == {"hosts": {"a.com": {"ssl_port": "443"}}, "pruning": -3, "extra": 1}
    assert peer.features == {
        "hosts": {"a.com": {"ssl_port": "443"}},
        "extra": 1,
        "pruning": None,
        "server_version": None,
        "protocol_min": "0.0",
        "protocol_max": "0.0",
        "ssl_port": 443,
        "tcp_port": None,
    }


@pytest.mark.parametrize(
    ("value", "port"),
    [
        (1, 1),
        (65535, 65535),
        ("50002", 50002),
        ("00080", 80),
        (0, None),
        (65536, None),
        (-1, None),
        ("0", None),
        ("65536", None),
        ("-1", None),
        ("1" * 5000, None),
        ("", None),
        ("²", None),
        ("٣", None),
        (True, None),
        (1.0, None),
        (None, None),
        ([1], None),
        ({}, None),
    ],
)
def test_ports_are_integers_or_decimal_text_in_range(value, port):
    peer = make_peer(entry={"ssl_port": value, "tcp_port": 7})

    assert (peer.ssl_port, peer.tcp_port) == (port, 7)


def test_only_the_entry_of_the_own_host_gives_ports():
    features = {"hosts": {"a.com": {"tcp_port": 1}, "b.com": {"tcp_port": 2}}, "ssl_port": 3}

    assert Peer("b.com", features).tcp_port == 2
    assert Peer("b.com", features).ssl_port is None


@pytest.mark.parametrize("entry", [{}, None, 0, "", []])
def test_an_empty_entry_falls_back_to_the_top_level_ports(entry):
    peer = Peer("a.com", {"hosts": {"a.com": entry}, "ssl_port": 5, "tcp_port": "6"})

    assert (peer.ssl_port, peer.tcp_port) == (5, 6)


@pytest.mark.parametrize("entry", ["text", 3, [1], True])
def test_an_entry_of_another_type_has_no_ports(entry):
    assert make_peer(entry=entry).ssl_port is None


@pytest.mark.parametrize(
    ("value", "pruning"),
    [(100, 100), ("100", 100), (0, None), (-1, None), ("x", None), (True, None), (10**50, None)],
)
def test_pruning_is_a_positive_integer(value, pruning):
    assert make_peer(pruning=value).pruning == pruning


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.4", "1.4"),
        ("1.4.2", "1.4.2"),
        ("1", "1.0"),
        ("", "0.0"),
        ("x", "0.0"),
        ("1.x", "0.0"),
        ("1." * 100 + "1", "0.0"),
        (1.4, "0.0"),
        (None, "0.0"),
        ([1, 4], "0.0"),
    ],
)
def test_protocol_versions_are_normalised_text(value, text):
    peer = make_peer(protocol_min=value, protocol_max=value)

    assert (peer.protocol_min, peer.protocol_max) == (text, text)


@pytest.mark.parametrize("name", ["server_version", "genesis_hash"])
def test_texts_of_another_type_are_none(name):
    assert getattr(make_peer(**{name: "abc"}), name) == "abc"
    assert getattr(make_peer(**{name: 12}), name) is None


def test_serialize_and_deserialize_are_inverse():
    peer = Peer("a.com", {"hosts": {"a.com": {"tcp_port": 1}}}, "src", "1.2.3.4", 5, 6, 7)
    item = peer.serialize()

    assert list(item) == list(Peer.ATTRS)
    assert Peer.deserialize(item).serialize() == item


# --- Hostile features


@given(json_values | hostile_features)
def test_peers_from_features_accepts_any_json_value(features):
    for peer in Peer.peers_from_features(features, "test"):
        assert peer.host in features["hosts"]
        # None of these may fail either.
        assert isinstance(peer.is_valid, bool)
        assert not (peer.is_public and not peer.is_valid)
        assert isinstance(peer.is_tor, bool)
        assert isinstance(peer.real_name(), str)
        assert peer.matches([peer]) == [peer]
        assert all(1 <= port <= 65535 for _, port, _ in peer.connection_tuples())
        again = Peer.deserialize(peer.serialize())
        assert again.real_name() == peer.real_name()


@pytest.mark.parametrize(
    "features",
    [None, [], "x", 3, {}, {"hosts": None}, {"hosts": ["a"]}, {"hosts": "a"}, {"hosts": {}}],
)
def test_malformed_features_give_no_peers(features):
    assert Peer.peers_from_features(features, "test") == []


def test_one_peer_for_each_host():
    features = {"hosts": {"a.com": {"tcp_port": 1}, "b.com": {"ssl_port": 2}}}
    peers = Peer.peers_from_features(features, "test")

    assert [(p.host, p.source, p.tcp_port, p.ssl_port) for p in peers] == [
        ("a.com", "test", 1, None),
        ("b.com", "test", None, 2),
    ]


def test_features_that_are_too_large_give_no_peers():
    features = {"hosts": {"a.com": {}}, "junk": "x" * MAX_FEATURES_SIZE}
    assert Peer.peers_from_features(features, "test") == []

    features["junk"] = "x" * (MAX_FEATURES_SIZE // 2)
    assert len(Peer.peers_from_features(features, "test")) == 1


def test_small_json_is_measured_by_depth_and_by_every_kind_of_value():
    deep = []
    for _ in range(20):
        deep = [deep]

    assert is_small_json({"a": [1, None, 1.5, "text"]}, 100)
    assert not is_small_json(deep, 10_000)
    assert not is_small_json(["x"] * 60, 100)
    assert not is_small_json({"k" * 200: 1}, 100)
    assert not is_small_json(1 << 4000, 100)


# --- Kinds of host


@pytest.mark.parametrize(
    ("host", "is_tor", "is_valid", "is_public"),
    [
        ("8.8.8.8", False, True, True),
        ("10.0.0.1", False, True, False),
        ("127.0.0.1", False, True, False),
        ("0.0.0.0", False, False, False),
        ("224.0.0.1", False, False, False),
        ("100.64.0.1", False, False, False),
        ("2600::1", False, True, True),
        ("2600::1%zone text", False, False, False),
        ("::1", False, True, False),
        ("::", False, False, False),
        ("ff02::1", False, False, False),
        ("fd00::1", False, True, False),
        ("example.com", False, True, True),
        ("example.com.", False, True, True),
        ("a_b-c.example.com", False, True, True),
        ("-a.com", False, False, False),
        ("a-.com", False, False, False),
        ("a.com\n", False, False, False),
        ("a b.com", False, False, False),
        ("ſ.com", False, False, False),
        ("1.2.3", False, False, False),
        ("", False, False, False),
        ("a" * 64 + ".com", False, False, False),
        ("a" * 63 + ".com", False, True, True),
        (".".join(["a" * 50] * 6), False, False, False),
        ("localhost", False, True, False),
        ("LocalHost", False, True, False),
        ("localhost.", False, True, False),
        ("abcdefgh.onion", True, True, True),
        ("ABCDEFGH.ONION", True, True, True),
        ("abcdefgh.onion.", True, True, True),
        ("onion", False, True, True),
    ],
)
def test_hosts_are_classified(host, is_tor, is_valid, is_public):
    peer = make_peer(host)

    assert (peer.is_tor, peer.is_valid, peer.is_public) == (is_tor, is_valid, is_public)


def test_ip_address_is_none_for_a_name():
    assert str(make_peer("1.2.3.4").ip_address) == "1.2.3.4"
    assert make_peer("a.com").ip_address is None


# --- Comparing and changing


def test_matches_compare_names_without_case_and_addresses_both_ways():
    named = make_peer("Example.com")
    named.ip_addr = "1.2.3.4"
    same_name = make_peer("example.COM")
    by_address = make_peer("1.2.3.4")
    other = make_peer("other.com")
    unknown_ip = make_peer("third.com")

    everyone = [same_name, by_address, other, unknown_ip]
    assert named.matches(everyone) == [same_name, by_address]
    assert by_address.matches([named, other]) == [named]


def test_connection_tuples_try_ssl_first_and_each_family_of_a_name():
    peer = make_peer(entry={"tcp_port": 1, "ssl_port": 2})

    assert peer.connection_tuples() == [
        ("SSL", 2, socket.AF_INET),
        ("SSL", 2, socket.AF_INET6),
        ("TCP", 1, socket.AF_INET),
        ("TCP", 1, socket.AF_INET6),
    ]


@pytest.mark.parametrize(
    ("host", "family"), [("1.2.3.4", socket.AF_INET), ("2600::1", socket.AF_INET6)]
)
def test_an_address_is_connected_by_its_own_family(host, family):
    assert make_peer(host, {"tcp_port": 1}).connection_tuples() == [("TCP", 1, family)]


def test_other_ports_are_tried_once_and_after_the_registered_ones():
    peer = make_peer("1.2.3.4", {"tcp_port": 1, "ssl_port": 2})
    changed = make_peer("1.2.3.4", {"tcp_port": 1, "ssl_port": 3})

    assert not peer.check_ports(make_peer("1.2.3.4", {"tcp_port": 1, "ssl_port": 2}))
    assert peer.check_ports(changed)
    assert [t[:2] for t in peer.connection_tuples()] == [("SSL", 2), ("TCP", 1), ("SSL", 3)]
    assert [t[:2] for t in peer.connection_tuples()] == [("SSL", 2), ("TCP", 1)]


def test_a_withdrawn_port_is_remembered_but_not_tried():
    peer = make_peer("1.2.3.4", {"tcp_port": 1})

    assert peer.check_ports(make_peer("1.2.3.4"))
    assert [t[:2] for t in peer.connection_tuples()] == [("TCP", 1)]


def test_the_number_of_other_ports_is_bounded():
    peer = make_peer("1.2.3.4")
    for port in range(1, 100):
        peer.check_ports(make_peer("1.2.3.4", {"tcp_port": port}))

    assert len(peer.other_port_pairs) == MAX_OTHER_PORT_PAIRS


def test_update_features_replaces_canonical_attributes():
    peer = make_peer(entry={"tcp_port": 1}, server_version="old")
    peer.update_features({"hosts": {"example.com": {"ssl_port": 2}}, "protocol_max": "1.4"})

    assert (peer.tcp_port, peer.ssl_port) == (None, 2)
    assert (peer.server_version, peer.protocol_max) == (None, "1.4")


@pytest.mark.parametrize("features", [None, {}, {"hosts": {"other.com": {}}}])
def test_features_of_another_host_are_not_taken(features):
    peer = make_peer(entry={"tcp_port": 1})
    before = peer.features
    peer.update_features(features)

    assert peer.features is before
    assert peer.tcp_port == 1


def test_update_features_from_peer_reads_the_own_entry():
    hosts = {"a.com": {"tcp_port": 1}, "b.com": {"tcp_port": 2}}
    a, b = Peer("a.com", {"hosts": hosts}), make_peer("b.com")
    b.update_features_from_peer(a)

    assert b.tcp_port == 2


def test_a_bad_mark_is_set_once_and_for_all():
    peer = make_peer()
    assert not peer.bad
    peer.mark_bad()
    peer.update_features({"hosts": {"example.com": {}}})
    assert peer.bad


# --- Buckets


@pytest.mark.parametrize(
    ("host", "ip_addr", "internal", "external"),
    [
        ("a.onion", "1.2.3.4", "onion", "onion"),
        ("a.com", None, "", ""),
        ("a.com", "not an address", "", ""),
        ("a.com", "1.2.3.4", "1.2.3.4/32", "1.2.0.0/16"),
        ("a.com", "2600:1:2:3:4:5:6:7", "2600:1:2:3::/64", "2600:1:2::/56"),
        ("a.com", "2600:1:2:3ff:4::7", "2600:1:2:3ff::/64", "2600:1:2:300::/56"),
        ("a.com", "fe80::1%lo", "fe80::/64", "fe80::/56"),
    ],
)
def test_buckets_are_networks(host, ip_addr, internal, external):
    peer = make_peer(host)
    peer.ip_addr = ip_addr

    assert peer.bucket_for_internal_purposes() == internal
    assert peer.bucket_for_external_interface() == external


# --- Real names


@pytest.mark.parametrize(
    ("real_name", "canonical"),
    [
        ("ecdsa.net v1.0 s110 t", "ecdsa.net v1.0 s110 t50001"),
        ("ecdsa.net t s v1.4.2", "ecdsa.net v1.4.2 s50002 t50001"),
        ("  a.com \t p100   v1.4\n", "a.com v1.4 p100"),
        ("a.com", "a.com v0.0"),
        ("a.com s0 t99999", "a.com v0.0"),
        ("a.com ssl tcp xyz é", "a.com v0.0"),
        ("a.onion s", "a.onion v0.0 s50002"),
        ("2600::1 t1", "2600::1 v0.0 t1"),
    ],
)
def test_real_names_are_read_in_any_order_and_written_canonically(real_name, canonical):
    peer = Peer.from_real_name(real_name, "test", DEFAULT_PORTS)

    assert peer.source == "test"
    assert peer.real_name() == canonical
    assert Peer.from_real_name(canonical, "test").real_name() == canonical


@given(
    port_s=st.none() | st.integers(1, 65535),
    port_t=st.none() | st.integers(1, 65535),
    pruning=st.none() | st.integers(1, 10**9),
    version=st.lists(st.integers(0, 99), min_size=2, max_size=3),
)
def test_a_real_name_survives_a_round_trip(port_s, port_t, pruning, version):
    text = ".".join(map(str, version))
    peer = make_peer(
        entry={"ssl_port": port_s, "tcp_port": port_t}, pruning=pruning, protocol_max=text
    )
    again = Peer.from_real_name(peer.real_name(), "test")

    assert (again.host, again.ssl_port, again.tcp_port) == (peer.host, port_s, port_t)
    assert (again.pruning, again.protocol_max, again.protocol_min) == (pruning, text, text)


@given(st.text())
def test_any_text_is_a_real_name(text):
    peer = Peer.from_real_name(text, "test", DEFAULT_PORTS)
    assert peer.host in peer.features["hosts"]


def test_an_empty_real_name_is_not_valid():
    assert not Peer.from_real_name("  ", "test").is_valid


def test_ports_of_a_real_name_are_kept_as_text_in_the_features():
    peer = Peer.from_real_name("a.com s443 t", "test", DEFAULT_PORTS)

    assert peer.features["hosts"] == {"a.com": {"ssl_port": "443", "tcp_port": "50001"}}


def test_the_tuple_for_clients_shows_the_address_if_it_is_known():
    peer = Peer.from_real_name("a.com v1.4 s443", "test")
    assert peer.to_tuple() == ("a.com", "a.com", ["v1.4", "s443"])

    peer.ip_addr = "1.2.3.4"
    assert peer.to_tuple() == ("1.2.3.4", "a.com", ["v1.4", "s443"])
