"""The cost of the coins: lines of code for each family, and the time to import and look one up.

    python -m benchmarks.coins

Lines are those with code: no blank ones, no comments, no docstrings.  Imports are timed in fresh
interpreters, CPU and wall clock, the best and the median of some; look-ups over all coins.  Also
names the optional packages of header hashes that importing the server has loaded: none.
"""

import ast
import importlib
import inspect
import io
import pkgutil
import statistics
import subprocess
import sys
import time
import tokenize
from collections import Counter

from electrumx.lib import coins
from electrumx.lib import tx as readers
from electrumx.lib.coins import Coin
from electrumx.lib.header_hashes import OPTIONAL_MODULES

RUNS = 11
LAYOUT = "{:<18}{:>6}{:>8}{:>8}  {}"
SNIPPET = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu)
print(*sys.modules)
"""


def code_lines(module):
    """The lines of a module that have code."""
    source = inspect.getsource(module)
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    skipped |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def submodules(package):
    """The modules of a package, by name."""
    return {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }


def print_families():
    """A line for each module of coins: how many, of how many lines, and their readers."""
    reader_modules = submodules(readers)
    print(LAYOUT.format("coins", "nets", "lines", "a net", "read by"))
    for name, module in submodules(coins).items():
        own = [
            coin
            for coin in vars(module).values()
            if inspect.isclass(coin)
            and issubclass(coin, Coin)
            and coin.__module__ == module.__name__
        ]
        nets = [coin for coin in own if hasattr(coin, "NAME")]
        used = Counter(coin.DESERIALIZER.__module__.rpartition(".")[2] for coin in nets)
        lines = code_lines(module)
        average = f"{lines / len(nets):.1f}" if nets else ""
        print(LAYOUT.format(name, len(nets) or "", lines, average, " ".join(sorted(used))))
    print()
    for name, module in reader_modules.items():
        print(LAYOUT.format(f"tx.{name}", "", code_lines(module), "", ""))


def import_times(module):
    """((best, median) of wall clock, the same of CPU), milliseconds; and the modules loaded."""
    walls, cpus, loaded = [], [], ""
    for _ in range(RUNS):
        command = [sys.executable, "-c", SNIPPET.format(module=module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times, loaded = done.stdout.splitlines()
        wall, cpu = times.split()
        walls.append(1000 * float(wall))
        cpus.append(1000 * float(cpu))
    figures = [(min(times), statistics.median(times)) for times in (walls, cpus)]
    return figures, loaded.split()


def print_times():
    """How long importing and looking up takes, and that no optional package is loaded."""
    print()
    for module in ("electrumx.lib.coins", "electrumx.server.controller"):
        ((wall, wall_median), (cpu, cpu_median)), loaded = import_times(module)
        packages = sorted(OPTIONAL_MODULES & set(loaded)) or "none"
        print(
            f"import {module}: {wall:.0f} ms (median {wall_median:.0f}), CPU {cpu:.0f} ms "
            f"(median {cpu_median:.0f}); optional packages loaded: {packages}"
        )
    nets = [getattr(coins, name) for name in coins.__all__ if hasattr(getattr(coins, name), "NET")]
    pairs = [(coin.NAME, coin.NET) for coin in nets if hasattr(coin, "NAME")]
    started = time.perf_counter()
    for name, net in pairs:
        assert Coin.lookup_coin_class(name, net)
    each = 1e6 * (time.perf_counter() - started) / len(pairs)
    print(f"look-up of {len(pairs)} coins: {each:.0f} microseconds each")


if __name__ == "__main__":
    print_families()
    print_times()
