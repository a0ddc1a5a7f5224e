"""Labels from a person: the care desk's replies, compared in a browser instead of by simulation."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from preftune.demo.facts import TREATMENTS, Card, read_cards
from preftune.errors import DataError
from preftune.serving.app import serve
from preftune.serving.settings import ServerSettings
from preftune.store import people
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.projects import (
    ProjectSettings,
    create_project,
    members_of,
    project_named,
    publish_guideline,
)
from preftune.store.snapshots import Judged, judged
from preftune.types import Comparison

NAME, BY = "Care desk", "demo"
LEAST = 20  # verdicts that take a side, before tuning on them makes sense
INVITED_S = 7 * 24 * 3600.0
GUIDELINE = """\
Which reply would you rather have sent to a customer?

1. A reply with a wrong fact is worse than any reply with right facts.
2. Of two right ones, prefer the one that is warm and says why.
3. Longer is not better.

These are the facts. With a system prompt that has the policy, no item of a child goes in the dryer.

"""


def label_by_hand(
    comparisons: Sequence[Comparison], *, store: Path, port: int, say: Callable[[str], object]
) -> Judged:
    """Serve the comparisons until Ctrl-C, and return what was said of them, now and before.

    Args:
        comparisons: what to judge.
        store: SQLite file, kept: the same call goes on with what it holds.
        port: of the server.
        say: hears where to go.

    Raises:
        DataError: too few verdicts to tune on.
    """
    with Database(store) as database:
        project_id = _project(database, comparisons)
        settings = ServerSettings(port=port, access_log=store.with_suffix(".log"))
        serve(database, settings, ready=partial(_invite, database, project_id, say))
        with database.read() as db:
            said = judged(db, project_id)
    decided = sum(j.kind == "scale" and j.grade != 4 for j in said.judgments)
    say(f"   {len(said.judgments)} verdicts, of which {decided} take a side; all are in {store}")
    if decided < LEAST:
        raise DataError(
            f"{store}: {decided} verdicts that take a side; tuning wants {LEAST} or more. "
            "They are kept: run the same command again and go on."
        )
    return said


def facts_table() -> str:
    """Return what raters must know, as Markdown: a row for each item that they are asked about.

    The cell of a jeans' washer says "30 normal", that of its dryer "no".
    """
    cards = {card.key: card for card in read_cards() if not card.held_out}
    items = dict.fromkeys(item for item, _ in cards)
    rows = [("item", *TREATMENTS), ("---",) * (1 + len(TREATMENTS))]
    rows += [(item, *(_fact(cards[item, treatment]) for treatment in TREATMENTS)) for item in items]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _fact(card: Card) -> str:
    return f"{card.temperature} {card.mode}" if card.verdict == "yes" else "no"


def _project(database: Database, comparisons: Sequence[Comparison]) -> str:
    with database.read() as db:
        found = project_named(db, NAME)
    if found is not None:
        return found
    new = [of_comparison(one) for one in comparisons]
    settings = ProjectSettings(reasons=("wrong fact", "cold", "no reason given", "kind"))
    made = database.write(partial(create_project, name=NAME, settings=settings, by=BY))
    text = GUIDELINE + facts_table()
    database.write(partial(publish_guideline, project_id=made, text=text, base=0, by=BY))
    database.write(partial(add_items, project_id=made, new=new, by=BY))
    return made


def _invite(database: Database, project_id: str, say: Callable[[str], object], url: str) -> None:
    """Say where to go: to an invitation the first time, later to the page itself."""
    with database.read() as db:
        known = members_of(db, project_id)
    where = f"{url}/p/{project_id}/label"
    if not known:
        expires_s = time.time() + INVITED_S
        token = database.write(
            lambda db: people.invite(
                db, role="lead", project_id=project_id, by=BY, expires_s=expires_s
            )
        )
        where = f"{url}/invite#{token}"
    say(
        f"   open   {where}\n   judge as many as you like (60 show an effect), then press Ctrl-C "
        "here;\n   the browser's page can be closed"
    )
