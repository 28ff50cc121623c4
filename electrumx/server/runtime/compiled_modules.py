"""The Cython modules of the server: the list, and those that this installation lacks.

pip builds them where it finds a C compiler and the headers of Python, and installs the server
without them where it does not.  A missing one costs speed, never a function: the pure-Python
implementation takes its place.
"""

from importlib import import_module

#: Cython module, below electrumx.server -> the work that is slower without it
COMPILED_MODULES = {
    "block_processor._fastblock": "parsing blocks",
    "bulk_sync._fastbulk": "the initial sync",
    "block_processor._fasthistory": "indexing",
    "block_processor._fastindex": "indexing",
    "db._fastquery": "answering clients",
}
#: packages of Debian and its derivatives that a build needs
BUILD_PACKAGES = "gcc, libc6-dev and python3-dev"


def missing_modules() -> list[str]:
    """Return the names of the Cython modules that fail to import."""
    missing = []
    for name in COMPILED_MODULES:
        try:
            import_module(f"electrumx.server.{name}")
        except ImportError:
            missing.append(name)
    return missing


def missing_modules_warning(missing: list[str]) -> str:
    """Return the log line for missing modules: the cost, and the packages to install."""
    slower = " and ".join(dict.fromkeys(COMPILED_MODULES[name] for name in missing))
    return (
        f"compiled modules that were not built: {', '.join(missing)}; {slower} can take several "
        f"times as long. Install {BUILD_PACKAGES} (as Debian names them), then install ElectrumX "
        "again"
    )
