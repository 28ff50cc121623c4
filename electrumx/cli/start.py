"""The server's command: notes signals from the first moment on, then loads and runs the server."""

import gc
import sys

from electrumx.lib.signals import EarlySignals


def main() -> int:
    """Run the server; return the process's exit status, 0 or 1."""
    early = EarlySignals().install()
    # Loading makes no garbage, and the collector would visit every class a dozen times in the meantime.
    gc.disable()
    # Takes a quarter of a second.
    from electrumx.cli.server import main as run_server

    return run_server(early=early)


if __name__ == "__main__":
    sys.exit(main())
