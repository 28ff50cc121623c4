"""Child processes of the integration tests: started apart, logged to a file, never left behind.

Each runs in a session of its own, so that a whole process group can be ended, and in a folder of
its own. Whatever still lives when the interpreter ends is killed.
"""

import atexit
import os
import re
import signal
import subprocess
import time

_alive = set()


class ChildDied(AssertionError):
    """A child ended although it should run; the text holds the end of its log."""


class Child:
    """A program with its log file.

    command: list of words; env: the whole environment, or None for ours; cwd: its folder.
    """

    def __init__(self, name, command, *, folder, env=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log_file = folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _alive.add(self)

    @property
    def pid(self):
        """Its process id, which is also its process group."""
        return self.popen.pid

    def running(self):
        """True until it has ended."""
        return self.popen.poll() is None

    def log_text(self):
        """All that it has printed, from all its starts in this folder."""
        return self.log_file.read_text(errors="replace")

    def log_tail(self, lines=40):
        """The last lines of the log, for messages."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_log(self, pattern, *, timeout=120, start=0):
        """Wait until the log, from offset start, matches a regular expression; the match."""

        def match():
            return re.search(pattern, self.log_text()[start:])

        return self.wait_for(match, what=f"{pattern!r} in its log", timeout=timeout)

    def wait_for(self, condition, *, what, timeout=120):
        """Poll until condition() is true; its value. ChildDied if the child ends before."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if not self.running():
                raise ChildDied(
                    f"{self.name} ended with {self.popen.returncode}, waiting for {what}:\n"
                    f"{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.name}: no {what} within {timeout} s:\n{self.log_tail()}"
                )
            time.sleep(0.02)

    def terminate(self, timeout=120):
        """Ask it to end (SIGTERM), kill it after timeout; its exit status, negative if killed."""
        return self.interrupt(signal.SIGTERM, timeout)

    def interrupt(self, signum, timeout=120):
        """Send a signal that should end it; its exit status."""
        if self.running():
            os.kill(self.pid, signum)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._end_group()

    def kill(self):
        """End it and its children at once (SIGKILL); its exit status."""
        self._end_group()
        return self.popen.wait(120)

    def _end_group(self):
        # The group outlives its leader while it has members.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # no process is left
        self.popen.poll()
        _alive.discard(self)


@atexit.register
def _kill_all():
    for child in list(_alive):
        child.kill()
