"""The directory of the database, which is the server's current directory.

The only change of directory is here: relative paths in settings and in the database count from it.
"""

import os

from electrumx.lib.env_base import EnvBase, shown
from electrumx.lib.trusted_certificates import keep_paths


def enter_db_directory(db_dir: str) -> None:
    """Make the database directory the working directory.

    Raises EnvBase.Error if it is missing, no directory, or not ours to write in.
    """
    name = f"envvar DB_DIRECTORY value {shown(db_dir)}"
    if not os.path.exists(db_dir):
        raise EnvBase.Error(f"{name} does not exist: create the directory, or set another")
    if not os.path.isdir(db_dir):
        raise EnvBase.Error(f"{name} is not a directory: set one")
    if not os.access(db_dir, os.R_OK | os.W_OK | os.X_OK):
        raise EnvBase.Error(f"{name} is not writable: let the user who runs the server write in it")
    # Those count from where the process started.
    keep_paths(os.environ)
    try:
        os.chdir(db_dir)
    except OSError as e:
        raise EnvBase.Error(f"{name} cannot be entered: {e.strerror}") from e
