"""The base class of the groups of request handlers."""

from electrumx.server.session.base import SessionBase
from electrumx.server.session.shared.state import SharedState


class HandlerGroup:
    """Handlers of one session's requests about one subject; see ``rpc_method``."""

    __slots__ = ("account", "session", "shared")

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        self.session = session
        self.shared = shared
        #: that of the session, for the charges of requests
        self.account = session.account
