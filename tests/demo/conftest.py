"""One desk for all tests of the world: it never changes."""

import pytest

from preftune.demo.world import CareDesk


@pytest.fixture(scope="session")
def desk() -> CareDesk:
    """The care desk as shipped."""
    return CareDesk()
