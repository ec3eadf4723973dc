"""A recorded project that the tests of this folder share, and a server for those that only read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Sandbox
from tests.serve.support import Served, served
from tests.support import copied, trained


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Three runs (lr 0.5, 1, 2), whose script now logs half, third, square and double as well."""
    return trained(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def quack_server(recorded: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of both protocols, on DuckDB 1.5.5."""
    place = copied(recorded, tmp_path_factory.mktemp("quack"))
    with served(place, quack=True) as server:
        yield server


@pytest.fixture(scope="session")
def server(recorded: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the PostgreSQL protocol, on the DuckDB that the tests run on."""
    place = copied(recorded, tmp_path_factory.mktemp("postgres"))
    with served(place) as running:
        yield running
