"""The options that all programs have: ``--version``, ``-v`` and ``--config``.

Importing this loads little, so that ``--help`` and ``--version`` answer at once.
"""

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

import electrumx
from electrumx.cli.logs import print_lines

MANUAL = "The manual is in docs/, or https://electrumx.readthedocs.io/."

# Libraries by which -v describes an installation: modules, the first that is there counts.
_LIBRARIES = {
    "engine leveldb": ("plyvel", "plyvel_next"),
    "engine rocksdb": ("rocksdict", "rocksdb"),
    "uvloop": ("uvloop",),
    "ZMQ": ("zmq",),
}
# Distributions whose names are not those of their modules.
_DISTRIBUTIONS = {"plyvel_next": "plyvel-next", "zmq": "pyzmq", "rocksdb": "rocksdb-ng"}


def add_common_options(parser: argparse.ArgumentParser, *, config_help: str) -> None:
    """Add the options that all programs have."""
    parser.epilog = MANUAL
    parser.add_argument("--version", action="store_true", help="print the version, and exit")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="with --version: print those of all parts too"
    )
    parser.add_argument("--config", metavar="FILE", help=config_help)


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace | None:
    """Return the arguments; None after printing the version, if they ask for it.

    ``argv`` are those after the program's name, by default the process's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Arguments required otherwise may be missing.
    if set(arguments) <= {"--version", "-v", "--verbose"} and "--version" in arguments:
        is_verbose = len(set(arguments)) > 1
    else:
        args = parser.parse_args(arguments)
        if not args.version:
            return args
        is_verbose = args.verbose
    print_lines(version_lines(verbose=is_verbose))
    return None


SETTINGS_HELP = (
    "file of settings, NAME=value in each line; those of the environment win (default: "
    "ELECTRUMX_CONFIG of the environment, if it is set)"
)


def version_lines(*, verbose: bool) -> list[str]:
    """Return the version; if ``verbose`` also those of Python, the libraries and our modules."""
    if not verbose:
        return [electrumx.version]
    from electrumx.server.runtime.compiled_modules import COMPILED_MODULES, missing_modules

    missing = missing_modules()
    return [
        electrumx.version,
        f"Python {platform.python_version()} ({platform.python_implementation()})",
        f"aiorpcX {_distribution_version('aiorpcX')}",
        *(f"{name}: {_library(modules)}" for name, modules in _LIBRARIES.items()),
        *(
            f"compiled module {name}: {'no' if name in missing else 'yes'}"
            for name in COMPILED_MODULES
        ),
    ]


def _library(modules: Sequence[str]) -> str:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        name = _DISTRIBUTIONS.get(module, module)
        return f"yes, {name} {_distribution_version(name)}"
    return "no"


def _distribution_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
