"""A real browser without a window, and a proxy that sees every request it would send."""

from __future__ import annotations

import re
import shutil
import socketserver
import subprocess
import threading

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)

OWN = re.compile(
    r"\b(accounts|clients\d*|update|redirector|safebrowsing|content-autofill|optimizationguide-pa)"
    r"\.(google|googleapis|gvt1)\.com\b"
)
"""Hosts that Chromium asks for by itself, whatever page is open and although told not to."""


class Proxy(socketserver.ThreadingTCPServer):
    """Notes the first line of each request that a page caused, and answers none."""

    daemon_threads = True

    def __init__(self):
        self.asked = []
        super().__init__(("127.0.0.1", 0), Note)


class Note(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self):
        line = self.rfile.readline().decode("latin-1").strip()
        if line and not OWN.search(line.split("?")[0]):
            self.server.asked.append(line)


class Browser:
    """Opens pages; `proxy.asked` holds the requests."""

    def __init__(self, program, profile, proxy):
        self.program, self.profile, self.proxy = program, profile, proxy

    def run(self, page, *options):
        """What the browser prints for a page with these options."""
        done = subprocess.run(
            [
                self.program,
                *FLAGS,
                f"--user-data-dir={self.profile}",
                f"--proxy-server=http://127.0.0.1:{self.proxy.server_address[1]}",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dom(self, page):
        """The page's document after it was loaded."""
        return self.run(page, "--dump-dom")


@pytest.fixture
def browser(tmp_path):
    """Fails, rather than skips, where there is no browser: CI installs one."""
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail(
            "this test opens pages in a real browser and found none: install chromium "
            "(apt-get install chromium), or leave such tests out with -m 'not browser', as "
            "`make test` does"
        )
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield Browser(program, tmp_path / "profile", proxy)
        proxy.shutdown()
        thread.join()
