"""Checks the database of a stopped server without changing it: version, coin and engine.

An engine writes to a store when it opens it, so this opens a copy: links to the table files, which
never change once written, and copies of the small files that name them.  Runs in: any thread.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from electrumx.server.db.stores import Stores
from electrumx.server.engine_choice import engine_of_store
from electrumx.server.env import Env
from electrumx.server.storage.base import db_class
from electrumx.server.storage.errors import explained
from electrumx.server.storage.schema import STATE_KEY, CommittedState, DBError

# Names of table files end so.
_TABLES = (".ldb", ".sst")
# More would take too long to copy; logs of the engine are small.
_MAX_COPIED_BYTES = 512_000_000


def check_closed_database(env: Env) -> None:
    """Raise DBError if the server could not use its database; one that is missing is no error."""
    store = Path(env.db_dir) / "utxo"
    written_by = engine_of_store(str(store))
    if written_by is None:
        return
    if written_by != env.db_engine.lower():
        raise DBError(
            f"the database in {env.db_dir} is of {written_by}: set DB_ENGINE to that, or name "
            "another DB_DIRECTORY"
        )
    engine = db_class(env.db_engine)
    with tempfile.TemporaryDirectory(prefix="electrumx-check-") as folder:
        copy = Path(folder) / "utxo"
        try:
            _link_or_copy(store, copy)
            opened = engine(str(copy), False)
            try:
                raw = opened.get(STATE_KEY)
            finally:
                opened.close()
        except Exception as e:
            better = explained(e, env.db_dir, engine)
            raise DBError(
                str(better) if isinstance(better, DBError) else f"cannot read the database: {e}"
            ) from e
    if raw is not None:
        logger = logging.getLogger(__name__)
        stores = Stores(Path(env.db_dir), engine, env.coin, env.reorg_limit, logger)
        stores.check_state(CommittedState.parse(raw))


def _link_or_copy(store: Path, copy: Path) -> None:
    copy.mkdir()
    copied = 0
    for entry in os.scandir(store):
        if entry.name.endswith(_TABLES):
            os.symlink(entry.path, copy / entry.name)
        elif entry.name != "LOCK" and entry.is_file():
            copied += entry.stat().st_size
            if copied > _MAX_COPIED_BYTES:
                raise DBError(f"{store} has unusually large files beside its tables")
            shutil.copyfile(entry.path, copy / entry.name)
