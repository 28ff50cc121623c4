"""The administrator's session: commands over a local port, for ``electrumx_rpc`` and scripts.

Its users are trusted: no costs, no time-outs, no bound on replies. They are counted all the same.
"""

import json
import time
from typing import Any, Protocol

from aiorpcx import ReplyAndDisconnect

from electrumx.lib.env_base import shown
from electrumx.lib.errors import OperatorError
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.db import DB
from electrumx.server.mempool.sync import MemPool
from electrumx.server.peers import PeerManager
from electrumx.server.session.admin import tables
from electrumx.server.session.admin.ban_commands import BanCommands
from electrumx.server.session.admin.commands import AdminCommands
from electrumx.server.session.admin.script_query import ScriptQuery
from electrumx.server.session.admin.selectors import (
    SessionReferences,
    parse_references,
)
from electrumx.server.session.base import HasSharedState, SessionBase
from electrumx.server.session.engine.cost_account import CostAccount, FreeAccount
from electrumx.server.session.engine.dispatch import LAST_WORD_SECS
from electrumx.server.session.engine.first_message import may_be_json_rpc
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import bad_request, non_negative_integer
from electrumx.server.session.engine.send_queue import MessageTransport
from electrumx.server.session.engine.session_limits import UNLIMITED
from electrumx.server.session.shared.session_table import by_id

# Log first messages that are not JSON-RPC once in so many seconds, at most.
FOREIGN_LOG_SECS = 60.0
# Cut names of methods to so many characters in the log.
LOGGED_NAMES_CHARS = 200


class HasCommands(HasSharedState, Protocol):
    """The interface of the session manager that the administrator's session uses."""

    commands: AdminCommands
    bans: BanCommands


class LocalRPC(SessionBase):
    """A session of the ``rpc`` service."""

    __slots__ = ("bans", "commands")

    # When to log a foreign first message again, by the monotonic clock
    _next_warning = 0.0

    def __init__(
        self,
        session_mgr: HasCommands,
        db: DB,
        mempool: MemPool,
        peer_mgr: PeerManager,
        kind: str,
        transport: MessageTransport,
    ) -> None:
        super().__init__(session_mgr, db, mempool, peer_mgr, kind, transport)
        self.commands = session_mgr.commands
        self.bans = session_mgr.bans
        self.client = "RPC"
        self.set_request_handlers((0,))

    def make_account(self) -> CostAccount:
        """Return an account without charges."""
        return FreeAccount(self, UNLIMITED)

    def protocol_version_string(self) -> str:
        """Return the text of the protocol column."""
        return "RPC"

    def accepts_first(self, message: bytes) -> bool:
        """Return whether a first message is JSON-RPC; log if it is not."""
        accepted = may_be_json_rpc(message)
        now = time.monotonic()
        if not accepted and now >= LocalRPC._next_warning:
            # A web page may try as often as it likes.
            LocalRPC._next_warning = now + FOREIGN_LOG_SECS
            self.logger.warning(
                "disconnecting: the first message is not JSON-RPC "
                "(a web page or another program may have been sent to this port)"
            )
        return accepted

    def on_malformed(self) -> None:
        """Disconnect: the administrator's tool sends no malformed messages."""
        self.end(LAST_WORD_SECS)

    def logged_text(self, message: bytes) -> str:
        """Return the text of a message for the log: the arguments of known commands, no password.

        A misspelt command may be ``daemon_url``, so the arguments of unknown ones are not shown.
        """
        methods = _method_names(message)
        if methods is None:
            return f"a malformed message of {len(message):,d} bytes"
        if methods <= self.methods.table.keys() - {"daemon_url"}:
            return super().logged_text(message)
        names = shown(", ".join(sorted(methods))[:LOGGED_NAMES_CHARS])
        return f"{names}, whose argument has a password"

    # -- the server

    @rpc_method("getinfo")
    async def rpc_getinfo(self) -> dict[str, Any]:
        """Return a summary of the server's state."""
        return self.commands.info()

    @rpc_method("ready")
    async def rpc_ready(self) -> dict[str, Any]:
        """Return whether the server is ready, and why not."""
        return self.commands.ready()

    @rpc_method("stop")
    async def rpc_stop(self) -> str:
        """Shut the server down cleanly."""
        self.commands.stop()
        return "stopping"

    @rpc_method("reload")
    async def rpc_reload(self) -> list[str]:
        """Read the settings file again; return lines about the changes."""
        try:
            return await self.commands.reload()
        except OperatorError as e:
            raise bad_request(f"reload refused, nothing was changed: {e}") from None

    @rpc_method("daemon_url")
    async def rpc_daemon_url(self, daemon_url: object, cookie_file: object = "") -> str:
        """Replace the list of nodes, with their cookie files; empty means that of the settings."""
        daemon = self.shared.daemon
        if not isinstance(daemon_url, str) or not isinstance(cookie_file, str):
            raise bad_request("expected a URL, and a path of a cookie file")
        if cookie_file and not daemon_url:
            raise bad_request("a cookie file needs a URL before it")
        try:
            if daemon_url:
                daemon.set_url(daemon_url, LoginFiles.parse(cookie_file))
            else:
                daemon.set_url(self.env.daemon_url, LoginFiles.of(self.env))
        except OperatorError as e:
            raise bad_request(str(e)) from None
        return f"now using daemon at {daemon.logged_url()}"

    @rpc_method("reorg")
    async def rpc_reorg(self, count: object) -> str:
        """Undo so many blocks and index them again."""
        count = non_negative_integer(count)
        try:
            await self.commands.reorg(count)
        except OperatorError as e:
            raise bad_request(str(e)) from None
        return f"scheduled a reorg of {count:,d} blocks"

    # -- the database

    @rpc_method("verify")
    async def rpc_verify(self, deep: object = False) -> dict[str, Any]:
        """Audit the database; return the verdict, and the findings in lines."""
        if not isinstance(deep, bool):
            raise bad_request("deep should be true or false")
        try:
            verdict = await self.commands.verify(deep=deep)
        except OperatorError as e:
            raise bad_request(str(e)) from None
        return {"sound": verdict.sound, "lines": verdict.lines}

    @rpc_method("backup")
    async def rpc_backup(self, path: object) -> str:
        """Copy the database to an absolute path that does not exist."""
        if not isinstance(path, str) or not path or "\0" in path:
            raise bad_request("expected a path")
        try:
            self.commands.require_caught_up()
        except OperatorError as e:
            raise bad_request(str(e)) from None
        self.logger.info(f"backing the database up to {shown(path)}")
        try:
            line = await self.commands.back_up(path)
        except OperatorError as e:
            self.logger.error(shown(str(e)))
            raise bad_request(str(e)) from None
        self.logger.info(f"backup: {shown(line)}")
        return line

    # -- peers

    @rpc_method("add_peer")
    async def rpc_add_peer(self, real_name: object) -> str:
        """Try a peer, named as "host v1.4 s50002 t50001"."""
        if not isinstance(real_name, str):
            raise bad_request("expected the real name of a peer")
        await self.shared.peers.add_localRPC_peer(real_name)
        return f"peer '{real_name}' added"

    @rpc_method("peers")
    async def rpc_peers(self) -> list[dict[str, Any]]:
        """Return a row for each peer known."""
        return await self.shared.peers.rpc_data()

    # -- sessions

    @rpc_method("sessions")
    async def rpc_sessions(self) -> list[list[Any]]:
        """Return a row for each session."""
        return tables.session_rows(self.shared.table, for_log=False)

    @rpc_method("inspect_session")
    async def rpc_inspect_session(self, session_id: object) -> dict[str, Any]:
        """Return the details of a client's session."""
        session_id = non_negative_integer(session_id)
        for session in self.shared.table.sessions:
            if session.session_id == session_id:
                if not session.limited:
                    raise bad_request(f"session with id={session_id} is not a client session")
                return tables.session_details(session)
        raise bad_request(f"no session with id={session_id}")

    @rpc_method("groups")
    async def rpc_groups(self) -> list[list[Any]]:
        """Return a row for each group of sessions."""
        return tables.group_rows(self.shared.table)

    def _references(self, items: object, special_words: set[str]) -> SessionReferences:
        return parse_references(self.shared.table, items, special_words)

    @rpc_method("disconnect")
    async def rpc_disconnect(self, session_ids: object) -> list[str]:
        """Disconnect sessions by id or group name, or all."""
        refs = self._references(session_ids, {"all"})
        if "all" in refs.specials:
            sessions = by_id(self.shared.table.sessions)
            lines = ["disconnecting all sessions"]
        else:
            sessions = refs.all_sessions()
            lines = [f"disconnecting session {item.session_id}" for item in by_id(refs.sessions)]
            lines += [f"disconnecting group {group.name}" for group in refs.groups]
        lines += [f"unknown: {item}" for item in refs.unknown]
        if self not in sessions:
            await self.shared.table.disconnect(sessions, "local RPC request to disconnect")
            return lines
        # The caller gets its reply first.
        others = [session for session in sessions if session is not self]
        await self.shared.table.disconnect(
            others, "local RPC request to disconnect", also_named=[self]
        )
        raise ReplyAndDisconnect(lines)

    @rpc_method("ban")
    async def rpc_ban(self, items: object, secs: object = None, force: object = False) -> list[str]:
        """Refuse connections of addresses and subnets, for some seconds or (None) without an end."""
        period = None if secs is None else non_negative_integer(secs)
        if period == 0:
            raise bad_request("the time of a ban should be a positive number of seconds")
        if not isinstance(force, bool):
            raise bad_request("force should be true or false")
        return await self.bans.ban(_texts(items), period, force=force)

    @rpc_method("unban")
    async def rpc_unban(self, items: object) -> list[str]:
        """Lift the bans of addresses and subnets, or all."""
        return await self.bans.unban(_texts(items))

    @rpc_method("bans")
    async def rpc_bans(self) -> list[list[Any]]:
        """Return a row for each ban."""
        return await self.bans.rows()

    @rpc_method("log")
    async def rpc_log(self, session_ids: object) -> list[str]:
        """Toggle the logging of requests: by session id or group name, all, none or new."""
        refs = self._references(session_ids, {"all", "none", "new"})
        lines = []
        for word, value, line in (
            ("all", True, "logging all sessions"),
            ("none", False, "logging no sessions"),
        ):
            if word in refs.specials:
                self.shared.table.log_new = value
                for session in self.shared.table.sessions:
                    session.log_me = value
                lines.append(line)
        if "new" in refs.specials:
            self.shared.table.log_new = not self.shared.table.log_new
            lines.append(_log_line(self.shared.table.log_new, "new sessions"))
        for session in refs.all_sessions():
            session.log_me = not session.log_me
            lines.append(_log_line(session.log_me, f"session {session.session_id}"))
        return lines + [f"unknown: {item}" for item in refs.unknown]

    # -- the chain

    @rpc_method("query")
    async def rpc_query(self, items: object, limit: object) -> list[str]:
        """Return lines about scripts (hex), addresses and names; ``limit`` of each kind."""
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise bad_request("expected a list of scripts, addresses or names")
        limit = non_negative_integer(limit)
        if self.shared.db.utxo_db is None:
            # The node has not answered yet, or the database is being reopened.
            raise bad_request("still catching up with daemon")
        return await ScriptQuery(self.shared.db, self.coin, self.logger).lines(items, limit)


def _texts(items: object) -> list[str]:
    """Return a list of addresses and subnets; RPCError if it is no list of texts."""
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise bad_request("expected a list of addresses or subnets")
    return items


def _method_names(message: bytes) -> set[str] | None:
    """Return the methods that a message names, decoded; None if it is malformed."""
    try:
        payload = json.loads(message)
    except (ValueError, RecursionError):
        return None
    members = payload if isinstance(payload, list) else [payload]
    names = [member.get("method") if isinstance(member, dict) else None for member in members]
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return {str(name) for name in names}


def _log_line(value: bool, text: str) -> str:
    return f"logging {text}" if value else f"not logging {text}"
