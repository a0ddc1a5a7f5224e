"""Fixtures every test can use, and the runtime check of every array shape."""

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from jaxtyping import install_import_hook

for package in ("losses", "engine", "inference"):
    install_import_hook(f"preftune.{package}", "beartype.beartype")

hypothesis_settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("house")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PREFTUNE_CACHE"] = "off"  # a test that wants a cache names a folder of its own
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="preftune-data-")  # keys, not the user's

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("PREFTUNE_SHARED", ROOT.parent / "shared")) / "data"


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real preference sets; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED} is missing; in CI the real data sets must be there")
        pytest.skip(f"no real data sets at {SHARED}; set PREFTUNE_SHARED to their parent")
    return SHARED


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What one command printed and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `preftune ARGUMENTS…` in this process, as the console script would."""
    from preftune.cli.main import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with warnings.catch_warnings():
            code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return Ran(code=code, out=shown.out, err=shown.err)

    return run
