"""The tree of errors: every error raised on purpose says where, what, and what to do."""

from pathlib import Path


class PreftuneError(Exception):
    """Base class: `except PreftuneError` catches everything raised on purpose."""


class DataError(PreftuneError, ValueError):
    """A row or a file cannot be used."""


class RowError(DataError):
    """One row breaks its contract; prints as `file:line: problem. fix.`"""

    def __init__(self, source: Path | str, line: int, problem: str, fix: str) -> None:
        super().__init__(f"{source}:{line}: {problem}. {fix}")
        self.source, self.line, self.problem, self.fix = source, line, problem, fix

    def __reduce__(self) -> tuple[type["RowError"], tuple[Path | str, int, str, str]]:
        """Keep the error picklable, so that it survives a worker process."""
        return type(self), (self.source, self.line, self.problem, self.fix)


class SettingsError(PreftuneError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class ModelError(PreftuneError, ValueError):
    """A model, tokenizer or chat template cannot be used as asked."""


class CheckpointError(PreftuneError, RuntimeError):
    """A checkpoint or run folder is damaged, foreign, or in use."""


class HealthError(PreftuneError, RuntimeError):
    """A run broke a check that it must pass, such as log 2 at step 0."""


class StoreError(PreftuneError, RuntimeError):
    """The store cannot be opened, is damaged, or could not write."""


class StoreWriteError(StoreError):
    """The store cannot write: disk full, connection lost. Nothing was acknowledged."""


class MissingExtraError(PreftuneError, ImportError):
    """An optional library is needed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed. Run: pip install 'preftune[{extra}]'")
        self.library, self.extra = library, extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        """Keep the error picklable, so that it survives a worker process."""
        return type(self), (self.library, self.extra)
