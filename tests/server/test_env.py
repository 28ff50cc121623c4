"""Tests of every setting: default, valid values, and the error for an invalid one."""

import logging
import re

import pytest

from electrumx.lib.coins import Coin, CoinError
from electrumx.lib.env_base import EnvBase
from electrumx.lib.errors import OperatorError
from electrumx.server import env as env_module
from electrumx.server.env import OBSOLETE, Env, ServiceError
from electrumx.server.memory_limits import needed_mb

BITCOIN = Coin.lookup_coin_class("Bitcoin", "mainnet")
UNLIMITED = -1


class FakeResource:
    """The resource module's part that Env uses, without effect on this process."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = UNLIMITED

    def __init__(self, soft=5000, hard=5000, error=None):
        self.limits, self.error = (soft, hard), error

    def getrlimit(self, kind):
        assert kind == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, kind, limits):
        assert kind == self.RLIMIT_NOFILE
        if self.error:
            raise self.error
        self.limits = limits


@pytest.fixture(autouse=True)
def base(bare_environment):
    """Set only the required variables; return the setter."""
    bare_environment.setattr(env_module, "resource", FakeResource())
    # Defaults are those of a machine that is large enough.
    bare_environment.setattr(env_module, "memory_mb", lambda: 16_000)
    for name, value in {
        "DB_DIRECTORY": "/some/dir",
        "DAEMON_URL": "http://user:secret@host:321/",
        "COIN": "Bitcoin",
    }.items():
        bare_environment.setenv(name, value)
    return bare_environment


def refusal(error=EnvBase.Error):
    """Return the text of the error that Env raises: one line, and without the password."""
    with pytest.raises(error) as caught:
        Env()
    text = str(caught.value)
    assert isinstance(caught.value, OperatorError)
    assert text.isprintable()
    assert "secret" not in text
    return text


TEXTS = [
    ("TOR_PROXY_HOST", "tor_proxy_host", "localhost"),
    ("BANNER_FILE", "banner_file", None),
    ("TOR_BANNER_FILE", "tor_banner_file", None),
    ("DONATION_ADDRESS", "donation_address", ""),
    ("BLACKLIST_URL", "blacklist_url", BITCOIN.BLACKLIST_URL),
]
BOOLEANS = [
    ("ALLOW_ROOT", "allow_root", False),
    ("PEER_ANNOUNCE", "peer_announce", True),
    ("FORCE_PROXY", "force_proxy", False),
    ("DAEMON_WAIT_FOR_BLOCKS", "daemon_wait_for_blocks", True),
    ("ANON_LOGS", "anon_logs", False),
]
# envvar, attribute, default, least, greatest
INTEGERS = [
    ("TOR_PROXY_PORT", "tor_proxy_port", None, 1, 65535),
    ("LOG_SESSIONS", "log_sessions", 3600, 0, None),
    ("CACHE_MB", "cache_MB", 1200, 1, None),
    ("REORG_LIMIT", "reorg_limit", BITCOIN.REORG_LIMIT, 1, None),
    ("MAX_SEND", "max_send", BITCOIN.DEFAULT_MAX_SEND, 0, None),
    ("MAX_RECV", "max_recv", 1_000_000, 1, None),
    ("DAEMON_POLL_INTERVAL_BLOCKS", "daemon_poll_interval_blocks_msec", 5000, 1, None),
    ("DAEMON_POLL_INTERVAL_MEMPOOL", "daemon_poll_interval_mempool_msec", 5000, 1, None),
    ("MAX_SESSIONS", "max_sessions", 1000, 0, None),
    ("MAX_SESSIONS_PER_SUBNET", "max_sessions_per_subnet", 100, 1, None),
    ("MAX_SESSIONS_PER_ADDRESS", "max_sessions_per_address", 100, 1, None),
    ("MAX_CONNECTS_PER_MINUTE", "max_connects_per_minute", 0, 0, None),
    ("PROXY_DEPTH", "proxy_depth", 1, 1, 4),
    ("COST_SOFT_LIMIT", "cost_soft_limit", 1000, 0, None),
    ("COST_HARD_LIMIT", "cost_hard_limit", 10000, 0, None),
    ("BANDWIDTH_UNIT_COST", "bw_unit_cost", 5000, 1, None),
    ("INITIAL_CONCURRENT", "initial_concurrent", 10, 1, None),
    ("REQUEST_SLEEP", "request_sleep", 2500, 0, None),
    ("REQUEST_TIMEOUT", "request_timeout", 30, 1, None),
    ("SESSION_TIMEOUT", "session_timeout", 600, 1, None),
    ("SESSION_GROUP_BY_SUBNET_IPV4", "session_group_by_subnet_ipv4", 24, 0, 32),
    ("SESSION_GROUP_BY_SUBNET_IPV6", "session_group_by_subnet_ipv6", 48, 0, 128),
]


@pytest.mark.parametrize(("envvar", "attr", "default"), TEXTS)
def test_a_text_is_taken_as_it_is(base, envvar, attr, default):
    assert getattr(Env(), attr) == default
    base.setenv(envvar, " some text ")
    assert getattr(Env(), attr) == " some text "


@pytest.mark.parametrize(("envvar", "attr", "default"), BOOLEANS)
def test_a_boolean_is_true_unless_blank(base, envvar, attr, default):
    assert getattr(Env(), attr) is default
    for value, expected in (("0", True), (" ", False), ("", False)):
        base.setenv(envvar, value)
        assert getattr(Env(), attr) is expected


@pytest.mark.parametrize(("envvar", "attr", "default", "least", "greatest"), INTEGERS)
def test_an_integer_has_default_and_bounds(base, envvar, attr, default, least, greatest):
    assert getattr(Env(), attr) == default
    for value in {least, (greatest or 1234)} - {0}:
        if envvar == "COST_HARD_LIMIT":
            base.setenv("COST_SOFT_LIMIT", "0")
        base.setenv(envvar, str(value))
        assert getattr(Env(), attr) == value
    base.setenv(envvar, str(least - 1))
    assert refusal().startswith(f"envvar {envvar} value {least - 1} is too small")
    if greatest is not None:
        base.setenv(envvar, str(greatest + 1))
        assert refusal().startswith(f"envvar {envvar} value {greatest + 1} is too big")
    for value in ("", "1.5", "many"):
        base.setenv(envvar, value)
        assert refusal().startswith(f"cannot convert envvar {envvar} value {value} to an integer")


def test_a_cache_larger_than_the_machines_memory_is_refused(base):
    base.setattr(env_module, "physical_memory_mb", lambda: 1000)
    base.setenv("CACHE_MB", "1000")
    assert Env().cache_MB == 1000
    base.setenv("CACHE_MB", "1001")
    assert refusal().startswith(
        "envvar CACHE_MB value 1001 is too big: the machine has 1,000 MB of memory, "
    )
    base.setattr(env_module, "physical_memory_mb", lambda: None)
    assert Env().cache_MB == 1001


@pytest.mark.parametrize(
    ("memory", "cache"), [(None, 1200), (16_000, 1200), (2_919, 1200), (2_000, 760), (100, 20)]
)
def test_the_default_cache_suits_the_memory(base, memory, cache):
    base.setattr(env_module, "memory_mb", lambda: memory)
    assert Env().cache_MB == cache
    if memory and cache > 20:
        assert needed_mb(cache) <= 0.6 * memory
    base.setenv("CACHE_MB", "300")
    assert Env().cache_MB == 300


def test_the_database_gets_the_open_files_that_are_left(base):
    limits = base.setattr
    limits(Env, "_raise_open_file_limit", lambda self: 5000)
    assert Env().spare_files == 5000 - 350 - 1000
    limits(Env, "_raise_open_file_limit", lambda self: 1000)
    assert Env().spare_files == 0
    limits(Env, "_raise_open_file_limit", lambda self: None)
    assert Env().spare_files > 100_000


def test_doubtful_settings_are_kept_for_the_log(base):
    assert [hint.partition(":")[0] for hint in Env().hints] == ["SERVICES is not set"]
    base.setenv("SERVICES", "tcp://:50001")
    base.setenv("ANON_LOGS", "false")
    (hint,) = Env().hints
    assert hint.startswith("ANON_LOGS=false means true")


@pytest.mark.parametrize("envvar", ["DB_DIRECTORY", "DAEMON_URL", "COIN"])
def test_required_variables_are_asked_for(base, envvar):
    base.delenv(envvar)
    assert refusal().startswith(f"required envvar {envvar} not set: set it to ")


def test_the_database_directory_is_absolute(base, tmp_path):
    assert Env().db_dir == "/some/dir"
    base.chdir(tmp_path)
    base.setenv("DB_DIRECTORY", "db")
    assert Env().db_dir == str(tmp_path / "db")
    base.setenv("DB_DIRECTORY", "")
    assert refusal().startswith("envvar DB_DIRECTORY value is empty")


def test_the_daemon_url_is_kept_and_may_be_empty(base):
    assert Env().daemon_url == "http://user:secret@host:321/"
    base.setenv("DAEMON_URL", "")
    assert Env().daemon_url == ""


def test_a_coin_is_found_by_name_and_net_whatever_the_case(base):
    assert Env().coin is BITCOIN
    base.setenv("COIN", " bitcoin ")
    base.setenv("NET", " TestNet ")
    assert Env().coin is Coin.lookup_coin_class("Bitcoin", "testnet")


def test_an_unknown_coin_is_refused(base):
    base.setenv("NET", "nosuchnet")
    assert refusal(CoinError).startswith("unknown coin")


def test_a_coin_class_stands_for_the_variables(base):
    base.delenv("COIN")
    testnet = Coin.lookup_coin_class("Bitcoin", "testnet")
    assert Env(testnet).coin is testnet


@pytest.mark.parametrize("envvar", OBSOLETE)
def test_an_obsolete_variable_is_refused_before_the_required_ones(base, envvar):
    base.delenv("DB_DIRECTORY")
    base.setenv(envvar, "")
    assert refusal().startswith("required envvar DB_DIRECTORY")
    base.setenv(envvar, "1")
    assert refusal().startswith(f"remove obsolete environment variables ['{envvar}']")


def test_obsolete_variables_are_listed_in_their_order(base):
    base.setenv("HOST", "h")
    base.setenv("MAX_SUBS", "1")
    assert refusal().startswith("remove obsolete environment variables ['MAX_SUBS', 'HOST']")


def test_the_loop_policy_is_checked_before_obsolete_variables(base):
    base.setenv("HOST", "h")
    base.setenv("EVENT_LOOP_POLICY", "")
    assert refusal().startswith('unknown event loop policy ""')


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "ON"), ("off", "OFF"), (" OFF ", "OFF"), ("", "OFF"), ("Self", "SELF"), ("1", "ON")],
)
def test_peer_discovery_has_three_values(base, value, expected):
    if value is not None:
        base.setenv("PEER_DISCOVERY", value)
    assert Env().peer_discovery == expected == getattr(Env, f"PD_{expected}")


def test_the_database_engine_is_one_of_two(base):
    base.setenv("DB_ENGINE", "leveldb")
    assert Env().db_engine == "leveldb"
    base.setenv("DB_ENGINE", "RocksDB")
    assert Env().db_engine == "RocksDB"
    base.setenv("DB_ENGINE", "lmdb")
    assert refusal().startswith('unrecognised DB engine "lmdb": ')


def test_clients_are_served_once_caught_up_or_always(base):
    assert not Env().serve_always
    base.setenv("SERVE", "Caught-Up")
    assert not Env().serve_always
    base.setenv("SERVE", "ALWAYS")
    assert Env().serve_always
    base.setenv("SERVE", "")
    assert refusal() == 'unrecognised SERVE "": set it to caught-up or always'


def test_the_bulk_sync_is_automatic_or_off(base):
    assert Env().bulk_sync == "auto"
    base.setenv("BULK_SYNC", "OFF")
    assert Env().bulk_sync == "off"
    base.setenv("BULK_SYNC", "no")
    assert refusal() == 'unrecognised BULK_SYNC "no": set it to auto or off'


def test_the_tor_banner_is_the_banner_by_default(base):
    base.setenv("BANNER_FILE", "banner")
    assert Env().tor_banner_file == "banner"
    base.setenv("TOR_BANNER_FILE", "tor")
    assert (Env().banner_file, Env().tor_banner_file) == ("banner", "tor")


def test_the_log_level_is_a_name(base):
    assert Env().log_level == "INFO"
    base.setenv("LOG_LEVEL", "debug")
    assert Env().log_level == "DEBUG"
    for bad in ("loud", "", "10", "a\nb"):
        base.setenv("LOG_LEVEL", bad)
        assert refusal().startswith("envvar LOG_LEVEL value ")


def test_drop_client_is_a_regex_and_empty_is_unset(base):
    assert Env().drop_client is None
    base.setenv("DROP_CLIENT", "")
    assert Env().drop_client is None
    base.setenv("DROP_CLIENT", "bad.*client")
    assert Env().drop_client == re.compile("bad.*client")
    base.setenv("DROP_CLIENT", "(")
    assert refusal().startswith("cannot parse envvar DROP_CLIENT value (")


def test_the_coin_gives_default_limits(base):
    class Other(BITCOIN):
        DEFAULT_MAX_SEND = 10_000_000
        REORG_LIMIT = 99
        BLACKLIST_URL = "http://list"

    env = Env(Other)
    assert (env.max_send, env.reorg_limit, env.blacklist_url) == (10_000_000, 99, "http://list")


# Costs


def test_a_hard_limit_below_the_soft_one_is_refused(base):
    base.setenv("COST_HARD_LIMIT", "999")
    assert refusal() == (
        "COST_HARD_LIMIT must be >= COST_SOFT_LIMIT. "
        "got (COST_HARD_LIMIT=999 and COST_SOFT_LIMIT=1000)"
    )


@pytest.mark.parametrize("soft", ["0", "1000"])
def test_a_hard_limit_of_zero_switches_limiting_off(base, soft):
    base.setenv("COST_HARD_LIMIT", "0")
    base.setenv("COST_SOFT_LIMIT", soft)
    env = Env()
    assert (env.cost_hard_limit, env.cost_soft_limit) == (0, int(soft))


def test_equal_limits_are_parted(base, caplog):
    caplog.set_level(logging.INFO)
    base.setenv("COST_HARD_LIMIT", "1000")
    env = Env()
    assert (env.cost_hard_limit, env.cost_soft_limit) == (1001, 1000)
    assert any("1,001" in record.getMessage() for record in caplog.records)


# Open files


def sessions_with(base, caplog, resource, wanted="9000"):
    caplog.set_level(logging.INFO)
    base.setattr(env_module, "resource", resource)
    base.setenv("MAX_SESSIONS", wanted)
    return Env().max_sessions, [record.getMessage() for record in caplog.records]


def test_sessions_are_lowered_to_the_open_file_limit(base, caplog):
    sessions, said = sessions_with(base, caplog, FakeResource(1350, 1350))
    assert sessions == 1000
    assert said == [
        "open file limit is 1,350",
        "lowered maximum sessions from 9,000 to 1,000 because your open file limit is 1,350",
    ]


@pytest.mark.parametrize("envvar", ["TRUSTED_CLIENTS", "TRUSTED_SERVICES", "PROXY_PROTOCOL"])
def test_the_tenth_beyond_the_sessions_fits_the_open_file_limit_too(base, caplog, envvar):
    base.setenv("SERVICES", "tcp://:5")
    base.setenv(envvar, "10.0.0.0/8" if envvar == "TRUSTED_CLIENTS" else "tcp://:5")
    assert sessions_with(base, caplog, FakeResource(1450, 1450))[0] == 1000


def test_sessions_are_never_negative(base, caplog):
    assert sessions_with(base, caplog, FakeResource(100, 100))[0] == 0


def test_the_open_file_limit_is_raised_first(base, caplog):
    resource = FakeResource(1024, 20000)
    sessions, said = sessions_with(base, caplog, resource)
    assert sessions == 9000
    assert resource.limits == (20000, 20000)
    assert said == ["raised open file limit from 1,024 to 20,000"]


def test_an_unlimited_hard_limit_is_no_limit(base, caplog):
    sessions, said = sessions_with(base, caplog, FakeResource(1024, UNLIMITED))
    assert sessions == 9000
    assert said == ["raised open file limit from 1,024 to unlimited"]


def test_an_unlimited_soft_limit_is_no_limit(base, caplog):
    sessions, said = sessions_with(base, caplog, FakeResource(UNLIMITED, UNLIMITED))
    assert sessions == 9000
    assert said == ["open file limit is unlimited"]


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no")])
def test_a_limit_that_cannot_be_raised_stays(base, caplog, error):
    sessions, said = sessions_with(base, caplog, FakeResource(1350, 20000, error))
    assert sessions == 1000
    assert said[0] == "could not raise open file limit from 1,350 to 20,000: no"


def test_without_a_resource_module_sessions_are_512(base, caplog):
    assert sessions_with(base, caplog, None)[0] == 512


# Services


def services(base, text):
    base.setenv("SERVICES", text)
    return [str(service) for service in Env().services]


def test_there_are_no_services_by_default():
    env = Env()
    assert (env.services, env.report_services) == ([], [])
    assert (env.ssl_certfile, env.ssl_keyfile) == ("", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rpc://", ["rpc://localhost:8000"]),
        ("rpc", ["rpc://localhost:8000"]),
        ("rpc://:800", ["rpc://localhost:800"]),
        ("rpc://127.9.9.9", ["rpc://127.9.9.9:8000"]),
        ("rpc:///run/e/rpc.sock", ["rpc:///run/e/rpc.sock"]),
        ("RPC:///a//b/../c,rpc://", ["rpc:///a/c", "rpc://localhost:8000"]),
        ("rpc:///a.onion", ["rpc:///a.onion"]),
        ("tcp://:50001", ["tcp://all_interfaces:50001"]),
        ("TCP://1.2.3.4:5,,ws://[::1]:6,", ["tcp://1.2.3.4:5", "ws://[::1]:6"]),
    ],
)
def test_services_have_defaults(base, text, expected):
    assert services(base, text) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("tcp:foo.bar", "invalid service string: tcp:foo.bar"),
        ("RPC", "invalid service string: RPC"),
        ("tcp", "invalid service string: tcp"),
        ("tcp://", "invalid address string: "),
        ("tcp://h", "invalid address string: h"),
        (" tcp://:50001", "invalid address string: :50001"),
        ("tcp://h:70000", "invalid port: 70000"),
        ("tcp://h:0", "invalid port: 0"),
        ("1p://h:5", "invalid protocol: 1p"),
        ("web://h:5", "unknown protocol"),
        ("tcp://h:5/", "invalid port: 5/"),
        ("rpc://h:5/", "invalid port: 5/"),
        ("tcp:///run/x", "only rpc may be at a Unix socket"),
        ("rpc://run/x", "the path of a Unix socket must be absolute"),
        ("rpc://./x", "the path of a Unix socket must be absolute"),
        ("rpc:///run/", "the path of a Unix socket must be that of a file"),
        ("rpc:///", "the path of a Unix socket must be that of a file"),
        ("rpc:///" + 107 * "a", "the path of a Unix socket has at most 107 bytes"),
        ("rpc:///" + 54 * "\u00e9", "the path of a Unix socket has at most 107 bytes"),
    ],
)
def test_a_service_that_does_not_parse_is_refused(base, text, cause):
    base.setenv("SERVICES", text)
    assert refusal(ServiceError).startswith(f'"{text}" invalid: {cause}')


def test_the_longest_path_of_a_socket_is_taken(base):
    path = "/" + 106 * "a"
    assert services(base, f"rpc://{path}") == [f"rpc://{path}"]
    assert Env().services[0].path == path
    base.setenv("SERVICES", "rpc:///a\nb")
    assert refusal(ServiceError).startswith('"rpc:///a\\nb" invalid: ')


NOT_LOCAL = ["0.0.0.0", "[::]", "192.0.2.1", "host.example", "all_interfaces", "localhost.example"]


@pytest.mark.parametrize("host", NOT_LOCAL)
def test_an_rpc_service_beyond_this_machine_needs_rpc_allow(base, host):
    base.setenv("SERVICES", f"tcp://:50001,rpc://{host}:8000")
    for unset in (None, "", ","):
        if unset is not None:
            base.setenv("RPC_ALLOW", unset)
        text = refusal(ServiceError)
        assert text.startswith(f"bad host for SERVICES: rpc://{host}:8000; ")
        assert "RPC_ALLOW" in text
    base.setenv("RPC_ALLOW", "192.0.2.0/24, 2001:db8::/32,10.0.0.1")
    env = Env()
    assert [str(n) for n in env.rpc_allow] == ["192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32"]
    assert str(env.services[1]) == f"rpc://{host}:8000"


@pytest.mark.parametrize("host", ["", "localhost", "LocalHost.", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_an_rpc_service_on_loopback_needs_none(base, host):
    base.setenv("SERVICES", f"rpc://{host}:8000")
    assert Env().rpc_allow == []


@pytest.mark.parametrize("text", ["everybody", "192.0.2.1/24", "192.0.2.0/33", "10.0.0.1;10.0.0.2"])
def test_rpc_allow_is_a_list_of_networks(base, text):
    base.setenv("RPC_ALLOW", text)
    assert refusal().startswith(f"cannot parse envvar RPC_ALLOW value {text}: ")


def test_wss_may_have_a_certificate_of_its_own(base):
    base.setenv("SERVICES", "ssl://:50002,wss://:50004")
    base.setenv("SSL_CERTFILE", "cert")
    base.setenv("SSL_KEYFILE", "key")
    env = Env()
    assert (env.wss_certfile, env.wss_keyfile) == ("cert", "key")
    base.setenv("WSS_CERTFILE", "other")
    assert refusal().startswith("required envvar WSS_KEYFILE not set: ")
    base.setenv("WSS_KEYFILE", "its key")
    env = Env()
    assert (env.wss_certfile, env.wss_keyfile) == ("other", "its key")
    assert (env.ssl_certfile, env.ssl_keyfile) == ("cert", "key")
    base.setenv("WSS_CERTFILE", "")
    assert refusal().startswith("envvar WSS_CERTFILE value is empty: ")


def test_a_server_with_wss_alone_needs_its_certificate_only(base):
    base.setenv("SERVICES", "wss://:50004")
    base.setenv("WSS_CERTFILE", "other")
    base.setenv("WSS_KEYFILE", "its key")
    env = Env()
    assert (env.wss_certfile, env.ssl_certfile) == ("other", "")


def test_origins_of_web_pages_are_as_browsers_write_them(base):
    assert Env().ws_origins is None
    base.setenv("WS_ORIGINS", " ,")
    assert Env().ws_origins is None
    base.setenv("WS_ORIGINS", "HTTPS://Wallet.Example/, http://localhost:8080,https://a.b:443,null")
    assert Env().ws_origins == [
        "https://wallet.example",
        "http://localhost:8080",
        "https://a.b",
        "null",
    ]
    for text in ("wallet.example", "https://a.b/page", "*", "https://"):
        base.setenv("WS_ORIGINS", text)
        assert refusal().startswith(f"cannot parse envvar WS_ORIGINS value {text}: ")


def test_names_of_the_metrics_service_have_no_port_and_no_path(base):
    assert Env().metrics_hosts == []
    base.setenv("METRICS_HOSTS", "Status.Example.org, b.example.,")
    assert Env().metrics_hosts == ["status.example.org", "b.example"]
    for text in ("a.b:80", "https://a.b", "a.b/c", "*.a.b", "a b.c"):
        base.setenv("METRICS_HOSTS", text)
        assert refusal().startswith(f"cannot parse envvar METRICS_HOSTS value {text}: ")


def test_services_behind_proxies_and_trusted_ones_are_among_the_services(base):
    assert (Env().proxy_protocol, Env().trusted_services) == ([], [])
    base.setenv("SERVICES", "tcp://:50001,ssl://127.0.0.1:50002,rpc://")
    base.setenv("SSL_CERTFILE", "cert")
    base.setenv("SSL_KEYFILE", "key")
    base.setenv("PROXY_PROTOCOL", "ssl://127.0.0.1:50002,TCP://:50001")
    base.setenv("TRUSTED_SERVICES", "tcp://:50001")
    env = Env()
    assert env.proxy_protocol == [env.services[1], env.services[0]]
    assert env.trusted_services == [env.services[0]]


@pytest.mark.parametrize("envvar", ["PROXY_PROTOCOL", "TRUSTED_SERVICES"])
def test_a_list_of_services_names_services_of_clients_as_they_are_written(base, envvar):
    base.setenv("SERVICES", "tcp://:50001,rpc://")
    for text in ("tcp://:50002", "tcp://127.0.0.1:50001", "ws://:50001"):
        base.setenv(envvar, text)
        assert refusal(ServiceError).startswith(f"{envvar} has {text.split(':')[0]}://")
    base.setenv(envvar, "rpc://")
    assert refusal(ServiceError).startswith(f"bad protocol for {envvar}: rpc")
    base.setenv(envvar, "quic://a:1")
    assert refusal(ServiceError).startswith('"quic://a:1" invalid: unknown protocol')


def test_networks_of_proxies_and_of_trusted_clients(base):
    env = Env()
    assert [str(network) for network in env.proxy_trusted] == ["127.0.0.0/8", "::1/128"]
    assert env.trusted_clients == []
    for envvar, attribute in (
        ("PROXY_TRUSTED", "proxy_trusted"),
        ("TRUSTED_CLIENTS", "trusted_clients"),
    ):
        base.setenv(envvar, "10.0.0.0/8, 2001:db8::1")
        found = [str(network) for network in getattr(Env(), attribute)]
        assert found == ["10.0.0.0/8", "2001:db8::1/128"]
        base.setenv(envvar, "all")
        assert refusal().startswith(f"cannot parse envvar {envvar} value all: ")
        base.setenv(envvar, "")
        assert getattr(Env(), attribute) == []


def test_the_weight_of_tor_is_a_number_from_0_to_1(base):
    assert Env().tor_group_weight == 0.1
    for text, value in (("0", 0.0), ("1", 1.0), (" 0.25", 0.25)):
        base.setenv("TOR_GROUP_WEIGHT", text)
        assert Env().tor_group_weight == value
    for text in ("-0.1", "1.1", "nan", "inf", "half", ""):
        base.setenv("TOR_GROUP_WEIGHT", text)
        assert refusal().startswith(f"cannot parse envvar TOR_GROUP_WEIGHT value {text}: ")


def test_a_bad_host_is_refused(base):
    base.setenv("SERVICES", "tcp://$h:5")
    assert refusal(ServiceError).startswith('"tcp://$h:5" invalid: ')


def test_two_services_at_one_address_are_refused(base):
    base.setenv("SERVICES", "tcp://:50001,ws://:50001")
    assert refusal(ServiceError).startswith("address all_interfaces:50001 has multiple services; ")


def test_an_onion_name_cannot_be_served_directly(base):
    base.setenv("SERVICES", "tcp://abc.onion:50001")
    text = refusal(ServiceError)
    assert text.startswith("bad host for SERVICES: tcp://abc.onion:50001; ")


@pytest.mark.parametrize("protocol", ["ssl", "wss"])
def test_tls_services_need_certificate_and_key(base, protocol):
    base.setenv("SERVICES", f"{protocol}://:50002")
    assert refusal().startswith("required envvar SSL_CERTFILE not set: ")
    base.setenv("SSL_CERTFILE", "")
    assert refusal().startswith("envvar SSL_CERTFILE value is empty: ")
    base.setenv("SSL_CERTFILE", "cert")
    assert refusal().startswith("required envvar SSL_KEYFILE not set: ")
    base.setenv("SSL_KEYFILE", "")
    assert refusal().startswith("envvar SSL_KEYFILE value is empty: ")
    base.setenv("SSL_KEYFILE", "key")
    env = Env()
    assert (env.ssl_certfile, env.ssl_keyfile) == ("cert", "key")


def test_services_without_tls_need_no_certificate(base):
    assert services(base, "tcp://:1,ws://:2,rpc://") == [
        "tcp://all_interfaces:1",
        "ws://all_interfaces:2",
        "rpc://localhost:8000",
    ]


@pytest.mark.parametrize("text", ["tcp://abc.onion:1", "ssl://8.8.8.8:2", "wss://a.b:3"])
def test_what_others_can_reach_is_reported(base, text):
    base.setenv("REPORT_SERVICES", text)
    assert [str(service) for service in Env().report_services] == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://h", '"tcp://h" invalid: invalid port: ; '),
        ("rpc", '"rpc" invalid: invalid service string: rpc; '),
        ("rpc://h:8000", "bad protocol for REPORT_SERVICES: rpc; "),
        ("rpc:///run/x", "bad protocol for REPORT_SERVICES: rpc; "),
        ("tcp://127.0.0.1:1", "bad IP address for REPORT_SERVICES: 127.0.0.1; "),
        ("tcp://10.1.2.3:1", "bad IP address for REPORT_SERVICES: 10.1.2.3; "),
        ("tcp://0.0.0.0:1", "bad IP address for REPORT_SERVICES: 0.0.0.0; "),
        ("tcp://224.0.0.2:1", "bad IP address for REPORT_SERVICES: 224.0.0.2; "),
        ("tcp://[ff01::1]:1", "bad IP address for REPORT_SERVICES: ff01::1; "),
        ("tcp://LocalHost:1", "bad host for REPORT_SERVICES: LocalHost; "),
        ("tcp://a:1,ssl://a:1", "address a:1 has multiple services; "),
    ],
)
def test_what_others_cannot_reach_is_not_reported(base, text, expected):
    base.setenv("REPORT_SERVICES", text)
    assert refusal(ServiceError).startswith(expected)


def test_private_addresses_may_be_reported_when_not_announcing(base):
    base.setenv("PEER_ANNOUNCE", "")
    base.setenv("REPORT_SERVICES", "tcp://127.0.0.1:1")
    assert [str(service) for service in Env().report_services] == ["tcp://127.0.0.1:1"]
    base.setenv("REPORT_SERVICES", "tcp://0.0.0.0:1")
    assert refusal(ServiceError).startswith("bad IP address")


# -- ZMQ_BLOCK_ADDRESS, ZMQ_MEMPOOL_ADDRESS


@pytest.mark.parametrize("what", ["block", "mempool"])
def test_zmq_addresses_are_a_list(base, what):
    attribute, envvar = f"zmq_{what}_addresses", f"ZMQ_{what.upper()}_ADDRESS"
    assert getattr(Env(), attribute) == []
    base.setenv(envvar, "")
    assert getattr(Env(), attribute) == []
    base.setenv(envvar, "tcp://127.0.0.1:28332, ipc:///run/node/blocks,tcp://[::1]:1")
    expected = ["tcp://127.0.0.1:28332", "ipc:///run/node/blocks", "tcp://[::1]:1"]
    assert getattr(Env(), attribute) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("28332", "127.0.0.1:28332", "tcp://127.0.0.1", "tcp://*:1", "tcp://h:0", "tcp://h:65536"),
        *("http://h:1", "inproc://x", "ipc://", "tcp://h:1/x", "tcp://h:1 tcp://h:2"),
    ],
)
def test_what_is_no_zmq_address_is_refused(base, address):
    base.setenv("ZMQ_BLOCK_ADDRESS", address)
    with pytest.raises(Env.Error, match=r"ZMQ_BLOCK_ADDRESS value .* is no address: set tcp://"):
        Env()
    base.setenv("ZMQ_BLOCK_ADDRESS", "")
    base.setenv("ZMQ_MEMPOOL_ADDRESS", address)
    with pytest.raises(Env.Error, match=r"ZMQ_MEMPOOL_ADDRESS value .* daemon's zmqpubrawtx or"):
        Env()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, {"ssl"}), ("", set()), (" ", set()), ("1", {"tcp", "ssl"}), ("yes", {"tcp", "ssl"})],
)
def test_messages_are_padded_where_they_are_encrypted_or_as_set(base, value, expected):
    if value is not None:
        base.setenv("PAD_MESSAGES", value)
    assert expected == Env().padded_protocols
