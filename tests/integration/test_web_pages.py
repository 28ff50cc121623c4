"""Pages of other origins, in a real browser: which services they can use."""

import http.server
import threading

import pytest

from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.browser import browser_page
from tests.integration.server import ServerProcess

HEIGHT = 5
PING = '{"jsonrpc": "2.0", "id": 7, "method": "server.ping", "params": []}'
# Requests to LocalRPC that a page can make without asking first
STOP = '{"jsonrpc": "2.0", "id": 7, "method": "stop", "params": []}\n'

ASK = """([url, message]) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(message);
    socket.onmessage = (event) => resolve(JSON.parse(event.data).id);
    socket.onclose = () => resolve("closed");
})"""
POST = """([url, body]) => fetch(url, {method: "POST", mode: "no-cors", body})
    .then(() => "answered", () => "failed")"""
GET = """([url, mode]) => fetch(url, {mode})
    .then((response) => response.text(), () => "failed")"""


class BlankPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_args):
        pass


@pytest.fixture
def page_origins(stopping):
    """Two origins, each with a page."""
    origins = []
    for _ in range(2):
        pages = stopping.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), BlankPage))
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        stopping.callback(pages.shutdown)
        origins.append(f"http://127.0.0.1:{pages.server_port}")
    return origins


@pytest.fixture
def server(page_origins, tmp_path, stopping):
    maker, tip = small_chain(HEIGHT)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    result = ServerProcess(
        tmp_path,
        node.env,
        protocols=("ws", "rpc", "metrics"),
        WS_ORIGINS=page_origins[0],
    )
    stopping.callback(result.kill)
    return result.start()


def test_pages_reach_ws_by_their_origin_and_nothing_of_the_operators(server, page_origins):
    listed, other = page_origins
    address = {name: f"127.0.0.1:{port}" for name, port in server.ports.items()}
    with browser_page(resolver_rules="MAP rebinding.example 127.0.0.1") as browser:
        page = browser.page
        page.goto(listed)
        assert page.evaluate(ASK, [f"ws://{address['ws']}", PING]) == 7
        for origin in page_origins:
            page.goto(origin)
            # Neither origin may command the server, by whatever a page can send.
            assert page.evaluate(ASK, [f"ws://{address['rpc']}", STOP]) == "closed"
            assert page.evaluate(POST, [f"http://{address['rpc']}/", STOP]) == "failed"
            for mode in ("cors", "no-cors"):
                found = page.evaluate(GET, [f"http://{address['metrics']}/status.json", mode])
                assert found in ("failed", "")
        page.goto(other)
        assert page.evaluate(ASK, [f"ws://{address['ws']}", PING]) == "closed"

        # A name that leads to this machine is not the service's; its address is.
        port = server.ports["metrics"]
        assert page.goto(f"http://rebinding.example:{port}/status.json").status == 421
        assert page.goto(f"http://127.0.0.1:{port}/status.json").status == 200
    assert "Traceback" not in (server.folder / "server.log").read_text()
    # It was not stopped by a page.
    assert server.terminate() == 0
