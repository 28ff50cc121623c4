"""Starts servers by forking a process that has everything imported: hundreds take seconds each.

Run as ``python -m tests.integration.forked_server`` with the server's settings in the environment.
Each line of standard input, the name of a log file, starts a server; its process id is a line of
standard output, and when it has ended, so is its exit status, negative for a signal.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

END_SECS = 120


class ForkedServers:
    """Starts one server after another with the same settings; a context manager."""

    def __init__(self, env, log_file):
        self._log_file = str(log_file)
        self._running = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=REPOSITORY,
        )

    def start(self):
        """Start a server; its process id."""
        self._process.stdin.write(self._log_file + "\n")
        self._process.stdin.flush()
        self._running = int(self._answer())
        return self._running

    def wait(self):
        """Wait until the server ends; its exit status."""
        status = int(self._answer())
        self._running = None
        return status

    def log(self):
        """The output of the servers so far."""
        return Path(self._log_file).read_text(errors="replace")

    def _answer(self):
        readable = select.select([self._process.stdout], [], [], END_SECS)[0]
        assert readable, f"no answer within {END_SECS} s:\n{self.log()[-5000:]}"
        line = self._process.stdout.readline()
        assert line, f"the process that forks has died:\n{self.log()[-5000:]}"
        return line

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._process.kill()
        if self._running:
            os.kill(self._running, signal.SIGKILL)
        self._process.communicate()


def _become_server(log_file):
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from electrumx.cli.server import main as server_main

    sys.exit(server_main([]))


def main():
    """Fork a server for each line of standard input."""
    # It would stay ignored where the tests run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Caches would answer in place of the database.
    import electrumx.cli.server
    import electrumx.server.block_processor
    import electrumx.server.controller  # noqa: F401
    from electrumx.server.session.shared import script_cache as scripts

    scripts.MAX_BYTES = scripts.MAX_BALANCE_BYTES = 0
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            _become_server(line.strip())
        print(pid, flush=True)
        _pid, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
