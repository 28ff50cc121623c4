"""The administrator's tool: sends one command to a running server and prints the answer.

Runs in a process of its own, and needs nothing of the server but its LocalRPC socket or port.
A password may be among the arguments, so the tool never guesses an address: see ``Server``.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiorpcx import NewlineFramer, RPCError, TaskTimeout, connect_rs, connect_us, timeout_after
from aiorpcx.jsonrpc import ProtocolError

from electrumx.cli.logs import print_lines
from electrumx.cli.options import add_common_options, parsed
from electrumx.lib.env_base import shown
from electrumx.lib.errors import OperatorError
from electrumx.lib.text import bans_lines, groups_lines, peers_lines, sessions_lines
from electrumx.server.settings import Settings

# Of the unit in contrib/systemd and of the container.
DEFAULT_SOCKET = "/run/electrumx/rpc.sock"
# An address, not a name: another user may listen at another address of the same name.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "8000"
DEFAULT_TIMEOUT_SECS = 30.0
# Some commands take as long as the database is large.
LONG_TIMEOUT_SECS = {"backup": 86_400.0, "verify": 7 * 86_400.0}
DEFAULT_QUERY_LIMIT = 1000
DEFAULT_REORG_BLOCKS = 3

# Commands without arguments, with their help.
_SIMPLE_COMMANDS = {
    "bans": "print the addresses and subnets that may not connect",
    "groups": "print the groups of sessions",
    "peers": "print the peer servers known",
    "ready": "print whether the server is ready for wallets; the exit status is 0 if it is, else 1",
    "reload": "read the settings file again, and apply what can be changed",
    "sessions": "print the sessions",
    "stop": "flush everything to disk and shut the server down",
}

# How to print replies that are no plain JSON.
_PRINTERS: dict[str, Callable[[Any], Iterable[str]]] = {
    "ban": iter,
    "bans": bans_lines,
    "groups": groups_lines,
    "peers": peers_lines,
    "query": iter,
    "ready": lambda reply: [_ready_line(reply)],
    "reload": iter,
    "sessions": sessions_lines,
    "unban": iter,
    "verify": lambda reply: reply["lines"],
}

# The finding of a command that succeeded, where that decides on the exit status.
_FOUND: dict[str, Callable[[Any], bool]] = {
    "ban": lambda reply: _all_done(reply),
    "query": lambda reply: _all_done(reply),
    "ready": lambda reply: bool(reply["ready"]),
    "unban": lambda reply: _all_done(reply),
    "verify": lambda reply: bool(reply["sound"]),
}


# The states in which getinfo --check fails: the operator has to do something.
_UNHEALTHY = ("node lost", "stopping")
# How lines begin about an item that was not understood or not carried out.
_NOT_DONE = ("unknown: ", "refused: ", "not saved: ")
# Units of the time of a ban, in seconds.
_UNIT_SECS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
DEFAULT_BAN_SECS = 86_400


def _all_done(lines: Iterable[str]) -> bool:
    """Return whether no line of a reply is about an item that was not carried out."""
    return not any(line.startswith(_NOT_DONE) for line in lines)


def _ready_line(reply: Any) -> str:
    """Return the reply to ``ready`` in one line."""
    if reply["ready"]:
        return f"ready: height {reply['height']:,d}"
    return f"not ready: {reply['state']}, {reply['reason']}"


def duration(text: str) -> int | None:
    """Return the seconds of a time such as ``30m`` or ``7d``, None for ``forever``."""
    if text == "forever":
        return None
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdecimal()) or unit not in _UNIT_SECS or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30m, 24h, 7d or forever")
    secs = int(number) * _UNIT_SECS[unit]
    if not secs:
        raise argparse.ArgumentTypeError("a ban of no time")
    return secs


@dataclass(frozen=True)
class Server:
    """Where to connect: to a Unix socket if there is a path, else to a host and port."""

    path: str | None = None
    host: str = DEFAULT_HOST
    port: str = DEFAULT_PORT

    @classmethod
    def chosen(
        cls, socket: str | None, host: str | None, port: str | None, environ: Mapping[str, str]
    ) -> "Server":
        """Return the server that options, else the environment, else what exists, name."""
        if socket:
            return cls(path=socket)
        if not host and not port:
            if environ.get("RPC_SOCKET"):
                return cls(path=environ["RPC_SOCKET"])
            if not environ.get("RPC_PORT") and os.path.exists(DEFAULT_SOCKET):
                return cls(path=DEFAULT_SOCKET)
        return cls(host=host or DEFAULT_HOST, port=port or environ.get("RPC_PORT") or DEFAULT_PORT)

    def connection(self) -> Any:
        """Return a context manager of a connection's session."""
        # Tables of thousands of sessions exceed the framer's usual bound
        framer = NewlineFramer(0)
        if self.path is not None:
            return connect_us(self.path, framer=framer)
        return connect_rs(self.host, self.port, framer=framer)

    def failure(self, error: Exception) -> str:
        """Return the text to print if connecting failed."""
        if self.path is None:
            return (
                "cannot connect - is ElectrumX catching up, not running, or "
                f"is {self.port} the wrong RPC port?"
            )
        if isinstance(error, PermissionError):
            return (
                f"cannot connect - {shown(self.path)} is for the server's user only: "
                "run this as that user, or as root"
            )
        return (
            "cannot connect - is ElectrumX not running, or "
            f"is {shown(self.path)} the wrong RPC socket?"
        )


def _absolute_paths(text: str) -> str:
    """Return a list of paths with commas, made absolute; empty ones stay empty."""
    return ",".join(os.path.abspath(path) if path else "" for path in text.split(","))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; arguments that are not options are the params."""
    parser = argparse.ArgumentParser(
        "electrumx_rpc", description="Send a command to a running ElectrumX server."
    )
    add_common_options(
        parser, config_help="file of the server's settings, for RPC_SOCKET, RPC_PORT and SERVICES"
    )
    parser.add_argument(
        "-p",
        "--port",
        metavar="PORT",
        help="port of the server's rpc service (default: RPC_PORT of the environment, or 8000)",
    )
    parser.add_argument(
        "--host", metavar="HOST", help=f"host of the server's rpc service (default: {DEFAULT_HOST})"
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="Unix socket of the server's rpc service (default: RPC_SOCKET of the environment; "
        f"without that, and without a host or port, {DEFAULT_SOCKET} if it exists)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECS",
        help="give up after so many seconds (default 30; a day for backup, a week for verify)",
    )
    parser.add_argument("--json", action="store_true", help="print the reply as JSON, not a table")
    commands = parser.add_subparsers(dest="command", metavar="<command>")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    for name, text in _SIMPLE_COMMANDS.items():
        add(name, text)
    command = add("getinfo", "print a summary of the server's state")
    command.add_argument(
        "--check",
        action="store_true",
        help="exit with status 1 if the server has lost its node, or is stopping",
    )
    command = add("add_peer", "try a peer server")
    command.add_argument("real_name", help='such as "ecdsa.net v1.4 s50002 t50001"')
    command = add("backup", "copy the database, while the server runs")
    command.add_argument(
        "path", type=os.path.abspath, help="a path that does not exist, on the server's machine"
    )
    command = add("daemon_url", "replace the URL of the node")
    command.add_argument(
        "daemon_url", nargs="?", default="", help="default: DAEMON_URL of the server's settings"
    )
    command.add_argument(
        "cookie_file",
        nargs="?",
        default="",
        # The server's current directory is another one.
        type=_absolute_paths,
        help="the node's cookie file, on the server's machine, for a URL without user:password@",
    )
    for name, text, specials in (
        ("disconnect", "disconnect sessions", "all"),
        ("log", "toggle logging of the requests of sessions", "all, none or new"),
    ):
        command = add(name, text)
        command.add_argument(
            "session_ids", nargs="+", help=f"session ids, group names, or {specials}"
        )
    command = add("ban", "refuse connections of addresses and subnets, and close those they have")
    command.add_argument(
        "--time",
        dest="secs",
        type=duration,
        default=DEFAULT_BAN_SECS,
        metavar="TIME",
        help="such as 30m, 24h, 7d, or forever (default 24h)",
    )
    command.add_argument(
        "--force", action="store_true", help="even if this machine or network is among them"
    )
    command.add_argument("items", nargs="+", help="addresses, or subnets such as 203.0.113.0/24")
    command = add("unban", "lift bans")
    command.add_argument("items", nargs="+", help="addresses and subnets as banned, or all")
    command = add("inspect_session", "print what there is to say of a client's session")
    command.add_argument("session_id", type=int, help="the number of the session")
    command = add("query", "look up scripts in the database")
    command.add_argument(
        "-l",
        "--limit",
        type=int,
        default=DEFAULT_QUERY_LIMIT,
        metavar="LIMIT",
        help="print at most so many entries of a kind (default 1000)",
    )
    command.add_argument("items", nargs="+", help="scripts in hex, addresses, or names")
    command = add("reorg", "undo some blocks and index them again")
    command.add_argument(
        "count", type=int, nargs="?", default=DEFAULT_REORG_BLOCKS, help="blocks (default 3)"
    )
    command = add("verify", "audit the database; the exit status is 0 if it is sound, else 1")
    command.add_argument(
        "--deep",
        action="store_true",
        help="check transaction hashes and raw blocks, and account for every output of the node",
    )
    return parser


async def request(server: Server, timeout_secs: float, command: str, params: dict[str, Any]) -> Any:
    """Return the server's reply to a command; raises the errors of connecting and requesting."""
    async with timeout_after(timeout_secs), server.connection() as session:
        session.sent_request_timeout = timeout_secs
        return await session.send_request(command, params)


def reply_lines(command: str, reply: Any, *, as_json: bool) -> Iterable[str]:
    """Return the lines to print for a reply."""
    printer = _PRINTERS.get(command)
    if printer is None or as_json:
        return [json.dumps(reply, indent=4, sort_keys=True)]
    return printer(reply)


def server_environment(config: str | None) -> dict[str, str]:
    """Return the variables that name the server: the environment's, or those of a settings file."""
    environ = Settings.read(config, os.environ).variables
    if not environ.get("RPC_SOCKET") and not environ.get("RPC_PORT"):
        for entry in environ.get("SERVICES", "").split(","):
            if entry.startswith("rpc:///"):
                environ["RPC_SOCKET"] = entry.removeprefix("rpc://")
    return environ


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    parser = make_parser()
    arguments = parsed(parser, argv)
    if arguments is None:
        return 0
    args = vars(arguments)
    config = args.pop("config")
    del args["version"], args["verbose"]
    try:
        environ = server_environment(config)
    except OperatorError as e:
        return _failed(e)
    socket, host, port = (args.pop(name) for name in ("socket", "host", "port"))
    if socket and (host or port):
        parser.error("--socket cannot be combined with --host or --port")
    server = Server.chosen(socket, host, port, environ)
    given_secs = args.pop("timeout")
    as_json = args.pop("json")
    command = args.pop("command")
    is_check = args.pop("check", False)
    if command is None:
        parser.print_usage(sys.stderr)
        return 2
    # An optional argument that is missing; servers of older versions do not know it.
    if args.get("cookie_file") == "":
        del args["cookie_file"]
    default_secs = LONG_TIMEOUT_SECS.get(command, DEFAULT_TIMEOUT_SECS)
    timeout_secs = default_secs if given_secs is None else given_secs
    try:
        reply = asyncio.run(request(server, timeout_secs, command, args))
    except (OSError, OverflowError) as e:
        # OverflowError: the port is no 16-bit number
        print_lines([server.failure(e)])
        return 1
    except (RPCError, ProtocolError) as e:
        return _failed(e.message)
    except TaskTimeout:
        return _failed(f"no reply within {timeout_secs:g} seconds")
    except asyncio.CancelledError:
        return _failed("the connection was lost")
    except ValueError as e:
        return _failed(str(e))
    print_lines(reply_lines(command, reply, as_json=as_json))
    if is_check:
        return int(reply.get("state") in _UNHEALTHY)
    found = _FOUND.get(command)
    return 0 if found is None or found(reply) else 1


def _failed(reason: object) -> int:
    print_lines([f"error making request: {shown(str(reason))}"])
    return 1


if __name__ == "__main__":
    sys.exit(main())
