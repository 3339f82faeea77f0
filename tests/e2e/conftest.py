"""What the end-to-end tests share."""

from collections.abc import Iterator

import pytest

from tests.e2e.up import Up


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `penstock up --simulate` for the tests that leave it running."""
    with Up(tmp_path_factory.mktemp("up")) as running:
        yield running
