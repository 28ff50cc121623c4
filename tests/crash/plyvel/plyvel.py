"""plyvel-next by the name that the peers import."""

from plyvel_next import *  # noqa: F403
