"""Fixtures of several tests of the database."""

import pytest

from tests.server.db.parts import stores_in


@pytest.fixture
def stores(tmp_path, engine):
    """The stores of a new database."""
    stores = stores_in(tmp_path, engine)
    stores.open_for_sync()
    yield stores
    stores.close()
