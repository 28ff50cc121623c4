"""The project's benchmarks: its claims about speed, measured again on this machine.

    python -m benchmarks [sync] [--chain 100k] [--rounds 2] ...

Without a part, all of them.  The peer e-x 2.0.0 is measured beside ours where it is installed, and
another version of ours where the variable BENCH_BEFORE names a checkout of it.
Prints a table at the end and writes everything to .run/bench.
"""

import argparse
import signal
import sys
import time
from dataclasses import replace

from benchmarks import lookups, report, stages, sync
from benchmarks.audience import raise_file_limit
from benchmarks.chain import make_chain
from benchmarks.chain_files import ChainFiles
from benchmarks.measuring import machine
from benchmarks.servers import BEFORE_NAME, Spec, before_folder
from benchmarks.serving import Serving
from benchmarks.shape import Shape
from tests.conftest import REPOSITORY

PARTS = ("sync", "serving", "stages")
#: on request only, as they take long
MORE_PARTS = ("hard", "lookups")
FOLDER = REPOSITORY / ".run" / "bench"
SYNC_SERVERS = [
    "ours-leveldb",
    "ours-rocksdb",
    "ours-python",
    "e-x-leveldb",
    "e-x-rocksdb",
    "ours-leveldb:CACHE_MB=20",
    "e-x-leveldb:CACHE_MB=20",
]
#: a UTXO set that does not fit the smaller caches, filled in both ways
HARD_SERVERS = [
    f"ours-{engine}:CACHE_MB={cache},BULK_SYNC={bulk}"
    for engine in ("leveldb", "rocksdb")
    for cache in (30, 120, 1200)
    for bulk in ("off", "auto")
]
#: UTXOs of the hard chain, for each transaction
HARD_UTXOS = 1.0
SERVING_SERVERS = ["ours-leveldb", "e-x-leveldb"]
_start = time.monotonic()


def say(text):
    """A line of progress, with the seconds since the start."""
    print(f"{time.monotonic() - _start:6.0f} s  {text}", flush=True)


def with_before(names):
    """These servers, and after each of ours that of the checkout that BENCH_BEFORE names, if any."""
    if before_folder() is None:
        return names
    pairs = ((name, name.replace("ours", BEFORE_NAME, 1)) for name in names)
    return [name for pair in pairs for name in dict.fromkeys(pair)]


def usable(names):
    """Specs of the servers that this machine has; the others are named."""
    specs = []
    for name in names:
        spec = Spec(name)
        missing = spec.missing()
        if missing:
            say(f"without {name}: {missing}")
        else:
            specs.append(spec)
    return specs


def parser():
    result = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n")[0])
    result.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join(PARTS)}; on request {', '.join(MORE_PARTS)}",
    )
    result.add_argument("--chain", default="100k", help="its transactions: 20k, 400k, 4m")
    result.add_argument("--seed", type=int, default=1, help="another chain of that shape")
    result.add_argument(
        "--many-utxos", action="store_true", help="the other parts on a chain like that of hard"
    )
    result.add_argument("--mempool", type=int, default=60_000, help="unconfirmed transactions")
    result.add_argument("--utxos", type=int, default=2_000_000, help="of the store of lookups")
    result.add_argument("--cache-mb", type=int, default=120, help="CACHE_MB of lookups")
    result.add_argument("--rounds", type=int, default=2, help="of the synchronisation")
    result.add_argument("--servers", nargs="+", metavar="SERVER", help="ours-leveldb:CACHE_MB=20")
    result.add_argument("--seconds", type=float, default=3, help="of each scenario")
    result.add_argument("--only", nargs="+", metavar="WORDS", help="scenarios named like this")
    result.add_argument("--blocks", type=int, default=3, help="new blocks of each kind")
    result.add_argument("--sessions", type=int, default=1_000, help="idle ones, for memory")
    result.add_argument("--subscriptions", type=int, default=20, help="of each of them")
    return result


def _hard(args, shape):
    """Synchronise the chain whose UTXO set is larger than a small cache."""
    utxos = int(shape.txs * HARD_UTXOS)
    hard = Shape.sized(args.chain, mempool=0, seed=args.seed, utxos=utxos)
    chain = FOLDER / "chains" / hard.name
    say(f"chain {args.chain} with {utxos:,d} UTXOs in {chain}")
    facts = make_chain(chain, hard)
    specs = usable(args.servers or with_before(HARD_SERVERS))
    return sync.sync_all(specs, chain, facts, FOLDER / "hard" / hard.name, args.rounds, say)


def main():
    raise_file_limit()
    # Ended in order, it takes its servers and nodes with it.
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(1))
    args = parser().parse_args()
    parts = args.parts or PARTS
    for part in parts:
        if part not in PARTS + MORE_PARTS:
            raise SystemExit(f"{part!r} is no part: {', '.join(PARTS + MORE_PARTS)}")
    shape = Shape.sized(args.chain, mempool=args.mempool, seed=args.seed)
    if args.many_utxos:
        shape = replace(shape, utxos=int(shape.txs * HARD_UTXOS))
    chain = FOLDER / "chains" / shape.name
    results = {"machine": machine()}
    lines = []
    if "lookups" in parts:
        results["lookups"] = lookups.measure(args.utxos, args.cache_mb, FOLDER / "lookups", say)
        lines += report.lookup_table(results["lookups"])
    if "hard" in parts:
        results["hard"] = _hard(args, shape)
        lines += ["", *report.sync_table(results["hard"], sync.FIGURES)]
    if set(parts) & set(PARTS):
        say(f"chain {args.chain} in {chain}")
        results["chain"] = facts = make_chain(chain, shape)
    if "sync" in parts:
        specs = usable(args.servers or with_before(SYNC_SERVERS))
        results["sync"] = sync.sync_all(
            specs, chain, facts, FOLDER / "sync" / shape.name, args.rounds, say
        )
        lines += report.sync_table(results["sync"], sync.FIGURES)
    if "serving" in parts:
        specs = usable(args.servers or with_before(SERVING_SERVERS))
        serving = Serving(chain, facts, FOLDER / "serving", args, say)
        results["serving"] = serving.run(specs, FOLDER / "sync" / shape.name)
        names = [str(spec) for spec in specs]
        lines += ["", *report.serving_tables(results["serving"], names)]
    if "stages" in parts:
        results["stages"] = stages.measure(ChainFiles(chain), FOLDER / "stages", say)
        lines += ["", *report.stage_table(results["stages"])]
    path = report.save(FOLDER, results)
    print("\n".join(lines))
    say(f"all figures are in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
