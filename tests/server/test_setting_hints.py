"""Settings that are accepted but hardly meant so: each gets a line, and nothing else does."""

import re

import pytest

from electrumx.server import setting_hints as module
from electrumx.server.env import OBSOLETE
from electrumx.server.setting_hints import BOOLEANS, KNOWN, ignored_names, setting_hints
from tests.conftest import REPOSITORY
from tests.lint.test_docs import directives

BOOLEAN_READ = re.compile(r'\.boolean\(\s*"([A-Z_]+)"')
QUIET = {"SERVICES": "tcp://:1"}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(module, "memory_mb", lambda: 4000)
    return monkeypatch


def hints(cache_mb=1200, **environ):
    return setting_hints({**QUIET, **environ}, cache_mb=cache_mb, obsolete=OBSOLETE)


def test_the_known_names_are_the_manuals():
    documented = set(directives("environment", "envvar")) | set(
        directives("rpc-interface", "envvar")
    )
    assert set(KNOWN) == documented - set(OBSOLETE)


@pytest.mark.parametrize("value", [None, "", ",,"])
def test_a_server_without_services_is_warned_of(value):
    environ = {} if value is None else {"SERVICES": value}
    (hint,) = setting_hints(environ, cache_mb=100)
    assert hint.startswith("SERVICES is not set: the server synchronises and serves nobody")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COST_SOFTLIMIT", "COST_SOFT_LIMIT"),
        ("COST_HARDLIMIT", "COST_HARD_LIMIT"),
        ("MAX_SESSION", "MAX_SESSIONS"),
        ("CACHE", "CACHE_MB"),
        ("DROP_CLIENT_UNKNOWN", "DROP_CLIENT"),
        ("SERVICE", "SERVICES"),
        ("SERVICSE", "SERVICES"),
        ("services", "SERVICES"),
        ("REPORT_SERVICE", "REPORT_SERVICES"),
        ("coin", "COIN"),
        ("DEAMON_URL", "DAEMON_URL"),
        ("PEER_DISCOVERYY", "PEER_DISCOVERY"),
        ("BANNERFILE", "BANNER_FILE"),
    ],
)
def test_an_ignored_name_is_named_with_the_one_that_was_meant(name, meant):
    (hint,) = hints(**{name: "secret value"})
    assert f"{name} (is {meant} meant?)" in hint
    assert "secret" not in hint


def test_all_ignored_names_are_in_one_line_of_bounded_length():
    text = ignored_names(["CACHE", "MAX_SESSION", "SERVICSE\x1b"])
    assert text.count("is ignored") + text.count("are ignored") == 1
    assert text.isprintable()
    many = ignored_names([f"SERVICES{n}" for n in range(10)] + ["CACHE", "coin"])
    assert many.endswith(" and 2 more")


@pytest.mark.parametrize(
    "names",
    [
        ["PATH", "HOME", "HOSTNAME", "LANG", "SHLVL", "TERM", "PWD", "USER", "LOGNAME", "SHELL"],
        ["SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "HTTPS_PROXY", "NO_PROXY", "TZ", "NETS"],
        ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "ELECTRUMX_SERVICE_PORT_RPC"],
        ["JOURNAL_STREAM", "INVOCATION_ID", "LISTEN_FDS", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"],
        ["PYTHONUNBUFFERED", "PYTHON_VERSION", "GPG_KEY", "VIRTUAL_ENV", "MALLOC_ARENA_MAX"],
        [*KNOWN],
        [*OBSOLETE],
    ],
)
def test_other_software_may_have_its_variables(names):
    assert ignored_names(names, OBSOLETE) == ""


def test_every_boolean_is_known():
    sources = (REPOSITORY / "electrumx").rglob("*.py")
    read = {name for path in sources for name in BOOLEAN_READ.findall(path.read_text())}
    assert set(BOOLEANS) == read
    assert len(read) > 4


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("value", ["0", "no", "False", " off "])
def test_a_boolean_that_reads_no_and_means_true_is_warned_of(name, value):
    assert hints(**{name: value}) == [f"{name}={value} means true: set it to nothing to say false"]
    for clear in ("", "1", "yes", "true"):
        assert hints(**{name: clear}) == []


def test_peer_discovery_that_means_on_is_warned_of():
    for value in ("no", "false", "0"):
        (hint,) = hints(PEER_DISCOVERY=value)
        assert hint.startswith(f"PEER_DISCOVERY={value} means on: ")
    for value in ("on", " Off ", "self", ""):
        assert hints(PEER_DISCOVERY=value) == []


def test_a_cache_that_memory_cannot_hold_is_warned_of(memory):
    assert hints(cache_mb=3000) == []
    (hint,) = hints(cache_mb=3001)
    assert hint.startswith("CACHE_MB is 3,001, with which the server takes up to 4,001 MB")
    memory.setattr(module, "memory_mb", lambda: None)
    assert hints(cache_mb=3001) == []


def test_proxies_anywhere_are_warned_of():
    for value in ("0.0.0.0/0", "10.0.0.0/8, ::/0"):
        (hint,) = hints(PROXY_TRUSTED=value)
        assert hint.startswith("PROXY_TRUSTED has every address")
    assert hints(PROXY_TRUSTED="10.0.0.0/8,::1") == []
