"""The store that the benchmark measures is one that labelling could have left."""

from collections import Counter
from pathlib import Path

from benchmarks.labelling_million import BEGIN, END, Timed, write_table
from benchmarks.million_store import PER_ITEM, SPARE, fill
from sqlalchemy import select

from preftune.store import events
from preftune.store.database import Database
from preftune.store.projects import members_of, progress
from preftune.store.schema import judgments


def test_a_store_written_in_bulk_verifies_and_is_counted_right(tmp_path: Path) -> None:
    with Database(tmp_path / "store.db") as store:
        project_id, raters = fill(store, 60)
        with store.read() as db:
            # made, 30 members, one import, and shown and voted for each judgment
            assert events.verify(db, project_id) == 1 + 30 + 1 + 2 * 60
            said = db.execute(select(judgments.c.item_id, judgments.c.user_id)).all()
            far = progress(db, project_id, raters[0])
            kept = {m.user_id: m.judged for m in members_of(db, project_id)}
    assert len(said) == len(set(said)) == 60
    assert set(Counter(row.item_id for row in said).values()) == {PER_ITEM}
    assert (far.done, far.total) == (20, 20 + SPARE)
    judged = Counter(row.user_id for row in said)
    assert kept == {who: judged[who] for who in raters}


def test_the_table_takes_its_place_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    write_table(page, "On a machine.", [Timed(what="a page", seconds=1.234, busy_s=0.5)])
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "| a page | 1.23 | 0.50 |" in text
    assert "old figures" not in text
