"""The settings of sessions, and how they change while sessions exist.

Runs in: the event loop.
"""

from electrumx.server.env import Env
from electrumx.server.session.admin.ban_commands import BanCommands
from electrumx.server.session.engine.session_limits import SessionLimits
from electrumx.server.session.housekeeping import Housekeeping
from electrumx.server.session.shared.state import SharedState, drop_pattern, group_hard_limit


class SessionSettings:
    """Texts for clients, and the limits of sessions: new and existing ones."""

    def __init__(self, shared: SharedState, bans: BanCommands, housekeeping: Housekeeping) -> None:
        self._shared = shared
        self._bans = bans
        self._housekeeping = housekeeping

    async def prepare(self, env: Env) -> "_NewSettings":
        """Return the change."""
        return _NewSettings(env, self._shared, self._bans, self._housekeeping)


class _NewSettings:
    """New settings of sessions."""

    def __init__(
        self, env: Env, shared: SharedState, bans: BanCommands, housekeeping: Housekeeping
    ) -> None:
        self._env = env
        self._limits = SessionLimits.from_env(env)
        self._drop = drop_pattern(env)
        self._shared = shared
        self._bans = bans
        self._housekeeping = housekeeping

    def commit(self) -> None:
        """Make the change."""
        shared, env = self._shared, self._env
        shared.env = env
        shared.limits = self._limits
        shared.drop_client = self._drop
        shared.table.groups.set_hard_limit(group_hard_limit(env))
        shared.table.groups.set_tor_weight(env.tor_group_weight)
        shared.peers.anon_logs = env.anon_logs
        self._bans.set_trusted((*env.trusted_clients, *env.proxy_trusted))
        self._bans.names_in_log = not env.anon_logs
        for session in list(shared.table.sessions):
            if session.limited:
                session.set_limits(self._limits)
        self._housekeeping.settings_changed()

    def abandon(self) -> None:
        """Do nothing."""
