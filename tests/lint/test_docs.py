"""The manual against the code: variables, protocol methods, operator's commands; and its build."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import MutableMapping
from importlib.util import find_spec

import pytest

from electrumx.cli import rpc as rpc_client
from electrumx.cli.completion import PARSERS, Words
from electrumx.lib.coins import Coin
from electrumx.lib.env_base import EnvBase
from electrumx.lib.protocol_versions import DEFINED
from electrumx.server import env as env_module
from electrumx.server.env import Env
from electrumx.server.reload import RELOADABLE
from electrumx.server.session import ElectrumX, LocalRPC
from electrumx.server.session.engine.method_registry import handler_names
from tests.conftest import REPOSITORY, require
from tests.lint.test_layers import ROWS

DOCS = REPOSITORY / "docs"
OLDEST, NEWEST = ElectrumX.PROTOCOL_MIN, ElectrumX.PROTOCOL_MAX
# An environment in which every variable is read.
COMPLETE = {
    "COIN": "Bitcoin",
    "DAEMON_URL": "http://user:password@localhost/",
    "DB_DIRECTORY": "/nowhere",
    "SERVICES": "ssl://:50002,rpc://",
    "SSL_CERTFILE": "certificate",
    "SSL_KEYFILE": "key",
}


class RecordingEnvironment(MutableMapping):
    """An environment that records the variables that were read."""

    def __init__(self, values):
        self.values = dict(values)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return self.values[key]

    def __setitem__(self, key, value):
        self.values[key] = value

    def __delitem__(self, key):
        del self.values[key]

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


def manual(name):
    return (DOCS / f"{name}.rst").read_text(encoding="utf-8")


def directives(page, directive):
    """The arguments of each such directive on a page, in order."""
    return re.findall(rf"^ *\.\. {directive}:: (.+)$", manual(page), re.MULTILINE)


def documented_obsolete():
    chapter = manual("environment").split("Obsolete\n========\n")[1]
    listed = chapter.split("\n\n")[1]
    return re.findall(r"``([A-Z_]+)``", listed)


def variables_named_in(path):
    """Names of variables given to a reader of the environment, as written in the source."""
    readers = {"getenv", "get"}
    readers |= {name for name, func in vars(EnvBase).items() if takes_variable(func)}
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called in readers and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return {name for name in names if re.fullmatch(r"[A-Z][A-Z0-9_]+", name)}


def takes_variable(member):
    """True for the class methods of EnvBase whose first argument names a variable."""
    if not isinstance(member, classmethod):
        return False
    return "envvar" in inspect.signature(member.__func__).parameters


def variables_read(monkeypatch):
    """The variables that the server looks at when nothing is wrong with any."""
    environment = RecordingEnvironment(COMPLETE)
    leave_open_files_alone(monkeypatch)
    monkeypatch.setattr(os, "environ", environment)
    Env()
    elsewhere = ("cli/logs.py", "server/settings.py", "server/runtime/sd_notify.py")
    by_others = [variables_named_in(REPOSITORY / "electrumx" / path) for path in elsewhere]
    return environment.asked.union(*by_others)


def leave_open_files_alone(monkeypatch):
    """Env would raise this process's limit of open files, if it knew how."""
    monkeypatch.setattr(env_module, "resource", None)


def documented_signatures():
    """{method: {parameter: default as written, None if it has none}}"""
    result = {}
    for text in directives("protocol-methods", "function"):
        name, arguments = re.fullmatch(r"([\w.]+)\((.*)\)", text).groups()
        parameters = [part.partition("=") for part in arguments.split(", ") if part]
        result[name] = {key: default or None for key, _, default in parameters}
    return result


def handler_classes(session_class):
    """The classes whose methods answer the requests of a session."""
    return (*session_class.handler_groups, session_class)


def served_signatures(cls, protocol):
    """The same, of the handlers."""
    result = {}
    classes = handler_classes(cls)
    for name, (attribute, position) in handler_names(classes, protocol).items():
        handler = getattr(classes[position], attribute)
        parameters = list(inspect.signature(handler).parameters.values())[1:]
        # Surplus arguments, which some tolerate, have no names.
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        result[name] = {p.name: default_text(p.default) for p in named}
    return result


def default_text(default):
    if default is inspect.Parameter.empty:
        return None
    written = {True: "true", False: "false", "": '""'} if type(default) is not int else {}
    return written.get(default, str(default))


def versions_added():
    """{method: the version of its addition in the manual}; the oldest are left out."""
    entries = re.split(r"^\.\. function:: ", manual("protocol-methods"), flags=re.MULTILINE)[1:]
    result = {}
    for entry in entries:
        added = re.search(r"^ +\.\. versionadded:: ([\d.]+)(?: |$)", entry, re.MULTILINE)
        if added:
            result[entry.partition("(")[0]] = tuple(map(int, added.group(1).split(".")))
    return result


def client_commands():
    """{command: its words, as completion offers them} of electrumx_rpc."""
    commands = Words.of(rpc_client.make_parser()).commands
    return {name: words for name, (words, _help) in commands.items()}


def coin_classes():
    """The coins that an operator can name."""
    return {
        coin
        for coin in subclasses(Coin)
        if hasattr(coin, "NAME")
        and hasattr(coin, "NET")
        and coin.__module__.startswith("electrumx.")
    }


def subclasses(cls):
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_every_variable_that_the_server_reads_is_documented_and_no_other(monkeypatch):
    documented = directives("environment", "envvar")

    read = variables_read(monkeypatch) - set(documented_obsolete())

    assert read == set(documented)
    assert len(documented) == len(set(documented))


def summary_table():
    """The rows (name, default, meaning) of the table at the top of the environment page."""
    table = manual("environment").split("Summary\n=======\n")[1].split("Types\n=====")[0]
    row = r"^   \* - :envvar:`(\w+)`\n     - (.+)\n     - (.+)$"
    return re.findall(row, table, re.MULTILINE)


def test_the_summary_table_has_the_variables_in_the_order_of_their_entries():
    assert [name for name, _, _ in summary_table()] == directives("environment", "envvar")


def stated_default(entry):
    """Return the default that an entry of the environment page states, as the table writes it."""
    head = " ".join(entry.partition("\n\n")[2].split("\n\n")[0].split())
    words = r"set by the coin|the (?:server's own|database's)|:envvar:`\w+`|``.+?``|\w[\w,]*\w|\w"
    found = re.search(rf"default ({words})", head)
    text = found[1] if found else "required"
    text = {"set by the coin": "by coin", "the server's own": "own"}.get(text, text)
    return text.removeprefix(":envvar:").strip("`")


def test_the_summary_table_has_the_defaults_of_the_entries():
    entries = re.split(r"^\.\. envvar:: ", manual("environment"), flags=re.MULTILINE)[1:]
    # Required only for some services, and a format that would be wider than the table.
    others = {"SSL_CERTFILE": "none", "SSL_KEYFILE": "none", "LOG_FORMAT": "in the text"}
    stated = {entry.partition("\n")[0]: stated_default(entry) for entry in entries}

    table = {name: default.strip("`") for name, default, _ in summary_table()}

    assert table == stated | others


def test_the_obsolete_variables_are_listed_and_each_stops_the_server(monkeypatch):
    listed = documented_obsolete()

    assert len(listed) == len(set(listed)) == 15
    for name in listed:
        monkeypatch.setattr(os, "environ", {**COMPLETE, name: "x"})
        with pytest.raises(Env.Error, match="remove obsolete environment variables") as error:
            Env()
        assert repr([name]) in str(error.value)


def test_the_clients_variables_are_documented_with_the_client():
    documented = {"RPC_PORT", "RPC_SOCKET"}
    assert documented == set(directives("rpc-interface", "envvar"))
    assert documented <= variables_named_in(REPOSITORY / "electrumx" / "cli" / "rpc.py")


def test_defaults_of_integers_in_the_manual_are_those_of_the_code(monkeypatch):
    leave_open_files_alone(monkeypatch)
    monkeypatch.setattr(os, "environ", dict(COMPLETE))
    # A machine with less memory has a smaller CACHE_MB.
    monkeypatch.setattr("electrumx.server.env.memory_mb", lambda: 16_000)
    values = vars(Env())
    attributes = {"BANDWIDTH_UNIT_COST": "bw_unit_cost", "CACHE_MB": "cache_MB"}
    for name in ("DAEMON_POLL_INTERVAL_BLOCKS", "DAEMON_POLL_INTERVAL_MEMPOOL"):
        attributes[name] = f"{name.lower()}_msec"
    stated = re.findall(
        r"^\.\. envvar:: (\w+)\n\n   Integer,(?: \w+,)? default ([\d,]+)[.;]",
        manual("environment"),
        re.MULTILINE,
    )
    # MAX_SESSIONS is further limited by the machine.
    stated = {name: int(value.replace(",", "")) for name, value in stated}
    del stated["MAX_SESSIONS"]

    assert len(stated) >= 13
    assert {name: values[attributes.get(name, name.lower())] for name in stated} == stated


def test_every_coin_and_network_is_documented_and_no_other():
    table = re.findall(
        r"^``(\w+)`` +(``.*(?:\n {20}.*)*)",
        manual("features").split("Coins\n=====")[1],
        re.MULTILINE,
    )
    documented = [
        Coin.lookup_coin_class(name, net)
        for name, nets in table[1:]
        for net in re.findall(r"``([\w-]+)``", nets)
    ]

    assert len(documented) == len(set(documented))
    assert coin_classes() == set(documented)


def test_every_protocol_method_is_documented_with_its_parameters_and_no_other():
    served = {}
    for version in DEFINED:
        served.update(served_signatures(ElectrumX, version))

    assert served == documented_signatures()


def test_the_range_of_versions_in_the_manual_is_that_of_the_server():
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))

    assert f"This server speaks {oldest} to {newest}." in manual("protocol-basics")


def test_methods_newer_than_the_oldest_version_are_served_in_it_as_extras():
    newer = {name for name, version in versions_added().items() if version > OLDEST}

    extras = {"blockchain.scripthash.unsubscribe"}
    assert extras <= newer
    served = set(handler_names(handler_classes(ElectrumX), OLDEST))
    assert served == set(documented_signatures()) - newer | extras


def test_removed_methods_are_not_served():
    removed = re.findall(r"^``(blockchain[\w.]+)`` ", manual("protocol-removed"), re.MULTILINE)

    assert len(removed) == 9
    assert not set(removed) & set(handler_names(handler_classes(ElectrumX), NEWEST))


def test_every_command_of_the_operators_port_is_documented_and_no_other():
    documented = directives("rpc-interface", "rpccommand")

    assert set(handler_names(handler_classes(LocalRPC), (0,))) == set(documented)
    assert len(documented) == len(set(documented))


def test_the_client_has_every_documented_command_and_no_other():
    assert set(client_commands()) == set(directives("rpc-interface", "rpccommand"))


def test_the_options_of_the_client_are_documented():
    every = [Words.of(rpc_client.make_parser()), *client_commands().values()]
    accepted = {option for words in every for option in words.options}

    documented = re.findall(r"-{1,2}[a-z]+", " ".join(directives("rpc-interface", "option")))

    assert accepted - {"-h", "--help"} == set(documented)


def test_no_page_is_missing_from_the_index():
    pages = {path.stem for path in DOCS.glob("*.rst")} - {"index"}

    assert pages <= set(re.findall(r"^   ([\w-]+)$", manual("index"), re.MULTILINE))


def test_the_manual_builds_without_a_warning(tmp_path):
    require(find_spec("sphinx") is not None, "sphinx is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-E", "-b", "html"]

    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "html" / "index.html").is_file()


def test_the_man_pages_build_without_a_warning(tmp_path):
    require(find_spec("sphinx") is not None, "sphinx is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-E", "-b", "man"]

    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "man")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    programs = {make_parser().prog for make_parser in PARSERS}
    built = {path.name for path in (tmp_path / "man").iterdir()}
    assert built == {f"{program}.1" for program in programs} | {"electrumx.conf.5"}


@pytest.mark.parametrize(
    "make_parser",
    PARSERS,
    ids=lambda make_parser: make_parser.__module__,
)
def test_the_options_of_the_programs_are_documented(make_parser):
    parser = make_parser()
    page = {"electrumx_rpc": "rpc-interface"}.get(parser.prog, parser.prog)
    text = manual(page)

    for option in set(Words.of(parser).options) - {"-h", "--help"}:
        assert re.search(rf"^\.\. option:: .*(?<![\w-]){option}\b", text, re.MULTILINE), option


def test_the_settings_that_a_reload_applies_are_listed():
    section = manual("HOWTO").split(".. _reloading:")[1].split(".. _stopping:")[0]
    listed = re.findall(r":envvar:`(\w+)`", section.split("Otherwise these settings")[1])

    assert sorted(listed) == sorted(RELOADABLE)


def test_the_architecture_page_shows_the_layers_that_are_enforced():
    text = (REPOSITORY / "docs" / "architecture.rst").read_text(encoding="utf-8")
    block = text.split("that a coin names. ::\n\n")[1].split("\n\n")[0]
    rows = [line.split() for line in block.splitlines()]

    assert rows == [[name.removeprefix("server.") for name in row] for row in reversed(ROWS)]


def test_the_files_of_the_repository_that_the_documents_name_exist():
    pages = [*DOCS.glob("*.rst"), *REPOSITORY.glob("*.rst"), *REPOSITORY.glob("*.md")]
    named = {
        path
        for page in pages
        # The changelog names files that are gone.
        if page.name != "changelog.rst"
        for path in re.findall(
            r"``((?:benchmarks|contrib|docs|electrumx|tests)/[\w./-]+)``", page.read_text()
        )
    }

    assert len(named) > 20
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


def test_the_files_that_the_architecture_page_names_exist():
    text = (REPOSITORY / "docs" / "architecture.rst").read_text(encoding="utf-8")
    table = text.split("Where to look")[1].split("Layers")[0]
    named = re.findall(r"``([\w/]+\.(?:py|pxd))``", table)

    assert len(named) > 20
    elsewhere = ("electrumx/", "tests/", "benchmarks/")
    roots = {name: "" if name.startswith(elsewhere) else "electrumx/server" for name in named}
    assert [name for name in named if not (REPOSITORY / roots[name] / name).is_file()] == []
