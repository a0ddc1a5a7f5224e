"""Put a file of comparisons before raters, without a browser."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preftune.datasets.read import read_comparisons
from preftune.errors import DataError
from preftune.progress import progress
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import ProjectSettings, create_project, project_named

BY = "command line"
AT_ONCE = 500  # items in one write


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """What came of it; `new` of `total` comparisons were not in the project yet."""

    project_id: str
    new: int
    total: int


def offer(
    database: Database, comparisons: Path, *, name: str, settings: ProjectSettings
) -> Offered:
    """Add the comparisons of a file to a project, which is made unless it is there.

    Stopped on the way, the same call goes on: what is there already stays as it is.

    Args:
        database: open.
        comparisons: records of kind comparison; judgments among them are refused.
        name: the project's.
        settings: of a project that is made; one that is there keeps its own.

    Raises:
        DataError: the file holds no comparisons or judgments as well, or one does not fit.
    """
    found, judged = read_comparisons(comparisons)
    if judged or not found:
        what = f"{len(judged)} judgments" if judged else "no comparison"
        raise DataError(f"{comparisons}: holds {what}. Give a file of comparisons to judge.")
    new = [of_comparison(one) for one in found]
    with database.read() as db:
        project_id = project_named(db, name)
    if project_id is None:
        project_id = database.write(
            lambda db: create_project(db, name=name, settings=settings, by=BY)
        )
    added = 0
    with progress("importing", len(new)) as advance:
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            added += database.write(partial(add_items, project_id=project_id, new=part, by=BY))
            advance(len(part))
    return Offered(project_id=project_id, new=added, total=len(new))
