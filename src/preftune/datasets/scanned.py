"""What reading one row gives: the record, and everything that is wrong or odd with it."""

from dataclasses import dataclass

from preftune.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with a row. A fatal one makes it unusable; an odd one is kept and counted."""

    kind: str  # short and stable, such as "empty_response"; used for counting
    what: str
    fix: str
    fatal: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """One row of a file: its record where one could be built (even from a bad row), its problems."""

    line: int  # 1-based line of a text file, row number of a Parquet file
    record: Record | None
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the record may be trained on."""
        return self.record is not None and not any(p.fatal for p in self.problems)
