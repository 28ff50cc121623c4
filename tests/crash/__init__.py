"""Kills and power cuts that the database must survive, and mutations that the tests must detect."""
