"""The pages of the ``metrics`` service: liveness, readiness, metrics, status.

The event loop reads the values, in less than a millisecond, and a thread writes them as text.
Concurrent requests share one reading, and later ones the same for ``SHARED_SECS``, so that many of them
cost little.

Runs in: the event loop.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson

from electrumx.lib.tasks import run_together
from electrumx.server.env import Env
from electrumx.server.metrics.catalogue import values_of
from electrumx.server.metrics.certificate import expiry_of_file
from electrumx.server.metrics.exposition import Exposition
from electrumx.server.metrics.http_service import HttpService, Reply
from electrumx.server.metrics.rates import RequestRates
from electrumx.server.metrics.report import report
from electrumx.server.metrics.sources import Sources
from electrumx.server.origins import host_name
from electrumx.server.session.admin.tables import readiness

T = TypeVar("T")

#: for how long a finished text serves requests
SHARED_SECS = 0.5
CERTIFICATE_SECS = 3600.0
PAGE = Path(__file__).parent / "page"
JSON = "application/json"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
OPENMETRICS = "application/openmetrics-text"
#: of all versions that a client may accept, the server sends this one
OPENMETRICS_ACCEPT = f"{OPENMETRICS}; version=1.0.0"


class SharedReply:
    """A reply that concurrent requests share."""

    def __init__(self, make: Callable[[], Awaitable[Reply]]) -> None:
        self._make = make
        self._task: asyncio.Task[Reply] | None = None
        self._made_at = float("-inf")

    async def get(self) -> Reply:
        """Return the reply; make it unless that is in progress or happened just now."""
        now = asyncio.get_running_loop().time()
        task = self._task
        if task is None or (task.done() and now - self._made_at >= SHARED_SECS):
            task = self._task = asyncio.ensure_future(self._made())
        # A client that leaves does not end it for others.
        return await asyncio.shield(task)

    async def _made(self) -> Reply:
        try:
            return await self._make()
        finally:
            self._made_at = asyncio.get_running_loop().time()

    async def stop(self) -> None:
        """Cancel the making of a reply."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


class MetricsService:
    """Serves the pages for as long as its ``async with`` block lasts."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._rates = RequestRates(sources.manager.shared.requests)
        self._exposition = Exposition()
        self._start_time = time.monotonic()
        self._shared = {
            "metrics": SharedReply(lambda: self._metrics("")),
            OPENMETRICS: SharedReply(lambda: self._metrics(OPENMETRICS_ACCEPT)),
            "status": SharedReply(self._status),
        }
        self._files = _page_files()
        services = [s for s in sources.env.services if s.protocol == "metrics"]
        self.http = HttpService(services, self.respond, hosts_of(sources.env))
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "MetricsService":
        await self.http.__aenter__()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.__aexit__(*exc)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for reply in self._shared.values():
            await reply.stop()

    async def _run(self) -> None:
        """Measure from time to time, until cancelled."""
        await run_together(self._rates.run(), self._sources.disk.run(), self._read_certificate())

    async def _read_certificate(self) -> None:
        while True:
            # A reload can name others.
            env = self._sources.manager.shared.env
            path = env.ssl_certfile or env.wss_certfile
            self._sources.certificate_expiry = (
                await asyncio.to_thread(expiry_of_file, path) if path else None
            )
            await asyncio.sleep(CERTIFICATE_SECS)

    # -- the pages

    async def respond(self, path: str, accept: str) -> Reply:
        """Return the answer to a request."""
        if path in ("/livez", "/healthz"):
            return Reply(b"ok\n")
        if path == "/readyz":
            status = self._sources.state.status()
            body = orjson.dumps(readiness(status)) + b"\n"
            return Reply(body, JSON, status=200 if status.ready else 503)
        if path == "/metrics":
            kind = OPENMETRICS if OPENMETRICS in accept else "metrics"
            return await self._shared[kind].get()
        if path == "/status.json":
            return await self._shared["status"].get()
        return self._files.get(path) or Reply(b"not found\n", status=404)

    async def _metrics(self, accept: str) -> Reply:
        families = values_of(self._sources.read())
        text, content_type = await asyncio.to_thread(self._exposition.text, families, accept)
        return Reply(text, content_type)

    async def _status(self) -> Reply:
        reading = self._sources.read()
        uptime = time.monotonic() - self._start_time
        body = orjson.dumps(report(reading, self._rates, uptime_secs=uptime)) + b"\n"
        return Reply(body, JSON)


def hosts_of(env: Env) -> set[str]:
    """Return the names in the public DNS under which the service has its pages."""
    services = [*env.report_services, *(s for s in env.services if s.protocol == "metrics")]
    hosts = {host_name(str(service.host)) for service in services}
    return {*hosts, *env.metrics_hosts, host_name(socket.gethostname())}


def _page_files() -> dict[str, Reply]:
    """Return the files of the page by their paths."""
    files = {
        f"/{path.name}": Reply(path.read_bytes(), CONTENT_TYPES[path.suffix])
        for path in PAGE.iterdir()
        if path.suffix in CONTENT_TYPES
    }
    files["/"] = files.pop("/index.html")
    return files
