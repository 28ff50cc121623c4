"""Sphinx settings of the manual; build it with ``sphinx-build -W -n docs docs/_build``."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent / "electrumx" / "__init__.py"

project = "ElectrumX"
author = "the ElectrumX developers"
copyright = "the ElectrumX developers"  # the name is Sphinx's
# Read, not imported: the manual builds on a machine that has none of the server's libraries.
version = release = re.findall(r'^version_short = "(.+)"$', _PACKAGE.read_text("utf-8"), re.M)[0]

extensions = []
root_doc = "index"
exclude_patterns = ["_build", "changes"]
highlight_language = "none"
nitpicky = True

# (page, name, description, authors, section); `make man` builds them.
man_pages = [
    ("electrumx_server", "electrumx_server", "Electrum protocol server", author, 1),
    ("rpc-interface", "electrumx_rpc", "send a command to a running Electrum server", author, 1),
    ("electrumx_verify", "electrumx_verify", "audit the database of an Electrum server", author, 1),
    ("electrumx_restore", "electrumx_restore", "make a database of a snapshot", author, 1),
    (
        "electrumx_compact_history",
        "electrumx_compact_history",
        "compact the history of an Electrum server",
        author,
        1,
    ),
    ("environment", "electrumx.conf", "settings of the Electrum server", author, 5),
]

html_theme = "alabaster"
html_theme_options = {"description": "An Electrum protocol server", "page_width": "1100px"}
# The theme itself includes custom.css.
html_static_path = ["_static"]
html_show_copyright = False


def setup(app):
    """Give the commands of electrumx_rpc a directive, a role and an index entry of their own."""
    app.add_object_type("rpccommand", "rpccommand", "pair: %s; electrumx_rpc command")
