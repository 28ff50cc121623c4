"""Forks the processes to be killed, so that each starts in milliseconds with all imported.

Reads requests from standard input and writes answers to standard output, a JSON object a line:

    {"job": name in child.JOBS, "spec": {...}, "kill_after": seconds or null, "timeout": seconds}
    {"status": exit status, -9 for SIGKILL, "output": text, "errors": text, "seconds": run time}
"""

import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback

from tests.crash import child, stories


def _run_child(request, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    status = 1
    try:
        child.JOBS[request["job"]](request["spec"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid, request):
    """Wait for the child, killing it where asked to; its exit status."""
    kill_after = request.get("kill_after")
    seconds = request["timeout"] if kill_after is None else kill_after
    fd = os.pidfd_open(pid)
    try:
        if not select.select([fd], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve(request):
    stories.story(request["spec"]["seed"])  # made once, here
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            _run_child(request, out, err)
        status = _wait(pid, request)
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        return {
            "status": status,
            "output": out.read(),
            "errors": err.read()[-20000:],
            "seconds": seconds,
        }


def main():
    """Serve until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
