"""Programs that watch a server: plain HTTP requests, Prometheus, HAProxy."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus

from tests.conftest import require
from tests.integration import parts
from tests.integration.processes import Child
from tests.integration.server import wait_until
from tests.ports import free_port


def get(port, path, accept=""):
    """Return (status, content type, text) of a page."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers["Content-Type"], e.read().decode()


def get_json(port, path):
    """Return (status, parsed JSON) of a page."""
    status, _type, text = get(port, path)
    return status, json.loads(text)


def promtool(*arguments, text=None, cwd=None):
    """Run promtool; return its output."""
    program = parts.promtool()
    require(program, "promtool is not there: make parts")
    command = [program, *map(str, arguments)]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """Prometheus, which scrapes one target every second."""

    CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: electrumx
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""

    def __init__(self, folder, target, rules):
        program = parts.prometheus()
        require(program, "Prometheus is not there: make parts")
        folder.mkdir()
        config = folder / "prometheus.yml"
        config.write_text(self.CONFIG.format(target=target, rules=rules))
        self.port = free_port()
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self.child = Child("prometheus", command, folder=folder, env={"PATH": "/usr/bin:/bin"})

    def _reply(self, path):
        """Return the parsed reply of a page; it raises an OSError while Prometheus starts."""
        status, _type, text = get(self.port, path)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise ConnectionError(text)
        return json.loads(text)

    def query(self, expression):
        """Return {labels without the name: value} of an expression."""
        reply = self._reply("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert reply["status"] == "success", reply
        return [(item["metric"], float(item["value"][1])) for item in reply["data"]["result"]]

    def value(self, expression):
        """Return the only value of an expression; None without one."""
        found = self.query(expression)
        return found[0][1] if found else None

    def targets(self):
        """Return the targets that are scraped."""
        return self._reply("/api/v1/targets")["data"]["activeTargets"]

    def wait_for(self, condition, what):
        """Wait until it answers, and a condition holds."""

        def holds():
            try:
                return condition()
            except OSError:
                return None

        return wait_until(holds, what=what, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.child.terminate()


class HAProxy:
    """HAProxy before one server, whose readiness it checks every 100 ms."""

    CONFIG = """
global
    stats socket {socket} level admin
defaults
    mode tcp
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    timeout check 1s
listen electrum
    bind 127.0.0.1:{port}
    option httpchk GET /readyz
    http-check expect status 200
    server e1 127.0.0.1:{server} check port {metrics} inter 100ms fall 2 rise 2
"""

    def __init__(self, folder, server_port, metrics_port):
        found = parts.haproxy()
        require(found, "HAProxy is not there: make parts")
        program, environment = found
        folder.mkdir()
        self.port = free_port()
        config = folder / "haproxy.cfg"
        config.write_text(
            self.CONFIG.format(
                socket=folder / "stats",
                port=self.port,
                server=server_port,
                metrics=metrics_port,
            )
        )
        command = [program, "-W", "-db", "-f", str(config)]
        self.child = Child(
            "haproxy", command, folder=folder, env={"PATH": "/usr/bin:/bin"} | environment
        )

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.child.terminate()
