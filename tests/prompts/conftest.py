"""The care desk's log, imported once for all tests."""

from pathlib import Path

import pytest
from tests.prompts.logs import desk_rows, write_rows

from preftune.prompts.import_log import import_log


@pytest.fixture(scope="session")
def desk_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompts of 1,000 rows of the care desk's log, imported."""
    folder = tmp_path_factory.mktemp("desk")
    log = write_rows(folder / "log.jsonl", desk_rows(1000))
    import_log(log, folder / "prompts.jsonl", tags=["channel"])
    return folder / "prompts.jsonl"
