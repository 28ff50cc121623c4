"""Debian's Chromium without a window, by Playwright."""

import contextlib
import os
import shutil

from tests.conftest import require


class Page:
    """A page of the browser, with all that went wrong in it."""

    def __init__(self, page):
        self.page = page
        #: errors of the console and of scripts; requests to another origin, or that failed
        self.errors = []
        self.urls = []
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))

    def _note_console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def text(self, selector):
        return self.page.locator(selector).inner_text()


@contextlib.contextmanager
def browser_page(*, resolver_rules=None, **options):
    """A new page in a browser of its own; skips without Playwright or Chromium.

    ``resolver_rules`` are Chromium's, such as ``MAP a.name 127.0.0.1``.  Options are those of a browser
    context: viewport, color_scheme and so on.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        require(False, "playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    require(program, "chromium is not installed")
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    if resolver_rules:
        arguments.append(f"--host-resolver-rules={resolver_rules}")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=arguments) as browser,
        browser.new_context(**options) as context,
    ):
        yield Page(context.new_page())
