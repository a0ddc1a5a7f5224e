"""Every set is imported once and shared by the tests."""

import gc
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from preftune.datasets.scanned import Scanned


@pytest.fixture(scope="session")
def imported(shared_data: Path) -> Callable[[str], list[Scanned]]:
    """Return what the importer of a set finds, by the name of its folder."""

    @cache
    def load(name: str) -> list[Scanned]:
        module = importlib.import_module(f"import_{name.replace('-', '_')}")
        found = list(module.records(shared_data / name))
        gc.freeze()  # they stay to the end: no use in looking for garbage among them
        return found

    return load
