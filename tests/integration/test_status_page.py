"""The status page in a real browser, over a real server: while it syncs, serves, and lost its node."""

import json
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.browser import browser_page
from tests.integration.client import trusting_context
from tests.integration.server import ServerProcess

HEIGHT = 30
WAIT_MSECS = 60_000
# A folder for pictures of the page, to be looked at
PICTURES = os.environ.get("STATUS_PAGE_PICTURES")


@pytest.fixture
def node(stopping):
    maker, tip = small_chain(HEIGHT)
    return stopping.enter_context(NodeThread(maker.chain(tip)))


@pytest.fixture
def server(node, tmp_path, stopping):
    result = ServerProcess(
        tmp_path,
        node.env,
        protocols=("tcp", "ssl", "rpc", "metrics"),
        READY_NODE_SECS=2,
    )
    stopping.callback(result.kill)
    return result


class Wallet:
    """A connection that stays, and asks one thing at a time."""

    def __init__(self, port, *, tls=False):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        if tls:
            self._socket = trusting_context().wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._file.close()
        self._socket.close()

    def call(self, method, *params):
        message = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        return json.loads(self._file.readline())["result"]


def url_of(server):
    return f"http://127.0.0.1:{server.ports['metrics']}/"


def wait_for_state(page, state):
    page.page.locator("#state", has_text=state).wait_for(timeout=WAIT_MSECS)


def picture(page, name):
    if PICTURES:
        page.page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


def check_page(page, server):
    """Nothing failed, nothing came from elsewhere, and all is named for a screen reader."""
    assert page.errors == []
    origin = urlsplit(url_of(server)).netloc
    assert {urlsplit(url).netloc for url in page.urls} == {origin}
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll("section, svg, progress, [role=region]")]
            .filter((e) => {
                const label = document.getElementById(e.getAttribute("aria-labelledby"));
                return !e.getAttribute("aria-label") && !(label && label.textContent);
            })
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.page.evaluate("document.documentElement.lang") == "en"
    assert page.page.locator("h1").count() == 1
    # A phone's width: nothing makes the page wider than its window.
    page.page.set_viewport_size({"width": 360, "height": 740})
    too_wide = page.page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((e) => !e.closest(".scroll") && e.getBoundingClientRect().right > 360)
            .map((e) => e.tagName + "#" + e.id + "." + e.className)"""
    )
    assert too_wide == []
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 360


def pair(page, section, name):
    """The value beside a name in a list of the page."""
    return page.page.evaluate(
        """([section, name]) => {
            const terms = [...document.querySelectorAll(`#${section} dt`)];
            const term = terms.find((t) => t.textContent === name);
            return term ? term.nextElementSibling.textContent : null;
        }""",
        [section, name],
    )


def test_the_first_sync_is_shown_as_a_bar(node, server):
    node.do(lambda fake: fake.delays.update(getblock=300))
    server.launch()
    server.wait_log("METRICS server listening")
    with browser_page(color_scheme="dark") as page:
        page.page.goto(url_of(server))
        wait_for_state(page, "syncing")
        bar = page.page.locator("#bar")
        bar.wait_for(timeout=WAIT_MSECS)
        assert "%" in bar.get_attribute("aria-valuetext")
        assert re.match(r"syncing: (height \d+ of|no block of) 30\b", page.text("#status"))
        assert pair(page, "chain", "Height") == "none yet"
        assert pair(page, "chain", "Node's height") == str(HEIGHT)
        assert pair(page, "chain", "Ready for wallets") == "no"
        picture(page, "syncing")
        check_page(page, server)


def test_a_server_under_load_is_shown_and_followed(node, server):
    server.start()
    with Wallet(server.ports["tcp"]) as wallet, Wallet(server.ports["ssl"], tls=True) as other:
        for each, version in ((wallet, "1.4"), (other, "1.4.2")):
            each.call("server.version", "wallet", version)
            each.call("blockchain.headers.subscribe")
        with browser_page() as page:
            page.page.goto(url_of(server))
            wait_for_state(page, "serving")
            assert page.text("#title") == "ElectrumX · BitcoinSegwit regtest"
            for number in range(50):
                wallet.call("blockchain.block.header", number % HEIGHT)
            page.page.locator("#methods", has_text="blockchain.block.header").wait_for(
                timeout=WAIT_MSECS
            )
            assert pair(page, "chain", "Height") == str(HEIGHT)
            assert pair(page, "chain", "Ready for wallets") == "yes"
            # At once: the page replaces the rows from time to time.
            rows = page.page.locator("#by-service tr").evaluate_all(
                "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
            )
            assert {tuple(row) for row in rows} >= {
                ("tcp", "1.4", "1"),
                ("ssl", "1.4.2", "1"),
            }
            assert pair(page, "sessions", "Subscriptions, headers") == "2"
            assert page.page.locator("#bar").is_hidden()
            picture(page, "serving")
            # The keyboard reaches the tables that scroll, and the links.
            reached = set()
            for _ in range(12):
                page.page.keyboard.press("Tab")
                reached.add(page.page.evaluate("document.activeElement.tagName"))
            assert {"DIV", "A"} <= reached
            check_page(page, server)


def test_a_lost_node_and_a_lost_server_are_shown(node, server):
    server.start()
    with browser_page(viewport={"width": 420, "height": 900}) as page:
        page.page.goto(url_of(server))
        wait_for_state(page, "serving")
        node.stop_node()
        wait_for_state(page, "node lost")
        page.page.locator("#node-failure").wait_for(timeout=WAIT_MSECS)
        assert "refused" in page.text("#node-failure")
        assert "127.0.0.1" in page.text("#node-failure")
        picture(page, "node-lost")
        check_page(page, server)
        server.kill()
        wait_for_state(page, "no answer")
        assert page.page.locator("#lost").is_visible()


HOSTILE = (
    "<img src=x onerror=document.title='run'><script>document.title='run'</script>\"'&amp;\u202e\0"
)


def with_hostile_strings(found):
    """Return a report in which each string that is not a state is hostile, and long."""
    if isinstance(found, dict):
        kept = ("state", "reason", "phase")
        return {k: v if k in kept else with_hostile_strings(v) for k, v in found.items()}
    if isinstance(found, list):
        return [with_hostile_strings(item) for item in found]
    return HOSTILE + "x" * 500 if isinstance(found, str) else found


def test_hostile_strings_of_the_node_and_of_clients_are_shown_as_text(server):
    server.start()
    with browser_page() as page, Wallet(server.ports["tcp"]) as wallet:
        wallet.call("blockchain.headers.subscribe")

        def answer(route):
            report = route.fetch().json()
            failure = {"cause": "refused", "method": "m", "text": "t", "age_s": 1.0}
            report["node"]["last_failure"] = failure
            route.fulfill(json=with_hostile_strings(report))

        page.page.route("**/status.json", answer)
        page.page.goto(url_of(server))
        wait_for_state(page, "serving")
        page.page.locator("body", has_text="onerror").wait_for(timeout=WAIT_MSECS)
        assert page.page.locator("img").count() == 0
        assert page.page.title() != "run"
        check_page(page, server)


def test_a_text_of_the_node_is_never_markup(server):
    """Names and messages are set as text: the script uses no way to write HTML."""
    script = (Path(__file__).parents[2] / "electrumx/server/metrics/page/status.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert way not in script
