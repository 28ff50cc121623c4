"""HTTP requests to the node: logins, status codes, and the limits of replies.

Runs in: the event loop.  Worker threads parse long answers.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import aiohttp

from electrumx.lib.trusted_certificates import trusted_context
from electrumx.server.daemon.byte_budget import ByteBudget
from electrumx.server.daemon.call_record import CallForbiddenError
from electrumx.server.daemon.endpoint import Endpoint
from electrumx.server.daemon.logins import Login
from electrumx.server.daemon.responses import BoundedResponse, Reading
from electrumx.server.daemon.retry import MalformedReplyError, ServiceRefusedError

HTTP_UNAUTHORIZED = 401
HTTP_FORBIDDEN = 403
Timeout: TypeAlias = aiohttp.ClientTimeout | None

# From asking for a connection to having it, in seconds.
CONNECT_SECS = 30


class UnauthorizedError(ServiceRefusedError):
    """HTTP status 401: the node does not accept the login."""


class NodeHTTP(Protocol):
    """Sends requests to a node; without a time-out they may take as long as any."""

    @property
    def session(self) -> Any:
        """The HTTP session; None before it opens."""

    @property
    def has_rest(self) -> bool:
        """Whether blocks may be read over the REST interface of the node as well."""

    async def post(self, url: str, data: str, reading: Reading, timeout: Timeout = None) -> Any:
        """Send data to url; return the parsed JSON of the answer."""

    async def close(self) -> None:
        """Close the session."""


class ClosedHTTP:
    """No session: it is not open yet, or has closed."""

    session = None
    has_rest = False

    async def post(self, _url: str, _data: str, _reading: Reading, _timeout: Timeout = None) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError("the daemon's HTTP session is not open")

    async def close(self) -> None:
        """Do nothing."""


class OpenHTTP:
    """A pool of connections to the nodes that the operator named."""

    has_rest = True

    def __init__(
        self,
        *,
        connector: aiohttp.BaseConnector | None,
        response_class: type[BoundedResponse],
        timeout_secs: float,
        endpoint: Callable[[str], Endpoint],
        budget: ByteBudget,
    ) -> None:
        """``endpoint(url)`` returns the address and login of a URL."""
        self._endpoint = endpoint
        self._budget = budget
        # A connector of the coin's daemon decides itself what it trusts.
        self._verifies = connector is None
        self.session = aiohttp.ClientSession(
            connector=connector,
            response_class=response_class,
            timeout=aiohttp.ClientTimeout(total=timeout_secs, sock_connect=CONNECT_SECS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the session."""
        await self.session.close()

    async def post(self, url: str, data: str, reading: Reading, timeout: Timeout = None) -> Any:
        """Send data to url; return the parsed JSON of the answer."""
        address, login = self._endpoint(url)
        # Requests are for the node that the operator named, and for no other machine.
        options: dict[str, Any] = {"allow_redirects": False}
        if timeout is not None:
            options["timeout"] = timeout
        if self._verifies and address.startswith("https:"):
            options["ssl"] = await trusted_context()
        authorization = await login.authorization()
        try:
            options["headers"] = {"Authorization": authorization}
            return await self._post_once(address, data, reading, login, options)
        except UnauthorizedError:
            # A node writes a new cookie at each start.
            renewed = await login.renewed(authorization)
            if renewed is None:
                raise
            options["headers"] = {"Authorization": renewed}
            return await self._post_once(address, data, reading, login, options)

    async def _post_once(
        self, url: str, data: str, reading: Reading, login: Login, options: dict[str, Any]
    ) -> Any:
        async with self.session.post(url, data=data, **options) as response:
            if is_json(response.headers):
                assert isinstance(response, BoundedResponse)
                try:
                    return await response.parsed(reading.parse, reading.max_bytes, self._budget)
                except ValueError as e:
                    raise MalformedReplyError(f"not JSON: {e}") from None
            # bitcoind answers "Work queue depth exceeded" as text, and 401 with an empty body.
            text, status = (await response.text()).strip(), response.status
            if status == HTTP_FORBIDDEN:
                raise CallForbiddenError(text or response.reason)
            refused = ServiceRefusedError(text or response.reason)
            if status == HTTP_UNAUTHORIZED:
                refused = UnauthorizedError(login.refusal() or text or response.reason)
            refused.status = status
            raise refused


class ReplacedHTTP:
    """A session that replaced ours.

    It need only have ``post(url, data=...)``, whose response need only have ``headers``, ``json()``,
    ``text()`` and ``reason``.
    """

    has_rest = False

    def __init__(self, session: Any) -> None:
        self.session = session

    async def close(self) -> None:
        """Close the session."""
        await self.session.close()

    async def post(self, url: str, data: str, _reading: Reading, _timeout: Timeout = None) -> Any:
        """Send data to url; return the parsed JSON of the answer."""
        async with self.session.post(url, data=data) as response:
            if is_json(response.headers):
                try:
                    return await response.json()
                except ValueError as e:
                    raise MalformedReplyError(f"not JSON: {e}") from None
            raise ServiceRefusedError((await response.text()).strip() or response.reason)


def is_json(headers: Any) -> bool:
    """Return whether headers state that the body is JSON."""
    content_type = headers.get("Content-Type") or ""
    return bool(content_type.partition(";")[0].strip().lower() == "application/json")
