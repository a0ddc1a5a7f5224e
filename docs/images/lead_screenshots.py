"""Take the pictures of docs/labelling-lead.md from the pages themselves, over a store of its own.

    python docs/images/lead_screenshots.py docs/images

The raters are simulated: three careful ones, one who clicks at random, one always to the left.
Needs the extra `dev` (playwright) and Debian's chromium. `--dark`, `--phone` and `--whole` (the
page to its end) give the others.
"""

import argparse
import random
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from preftune.serving.app import create_app
from preftune.serving.settings import ServerSettings
from preftune.store import people
from preftune.store.adjudication import Wanted, disagreed, list_items, mark
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.labels import Vote, flag, vote
from preftune.store.projects import (
    ProjectSettings,
    add_member,
    create_project,
    publish_guideline,
)
from preftune.store.queue import Task, next_task
from preftune.store.snapshots import freeze
from preftune.types import Comparison, Response, Sampling, assistant, make_prompt, text_of, user

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = (1280, 800), (390, 844)
NAMES = ("Lena Lead", "Ann Arber", "Bo Lind", "Cem Aksoy", "Random Clicker", "Left Leaner")
THINGS = ("teddy bear", "wool coat", "linen shirt", "silk scarf", "down jacket", "denim jeans")
QUESTIONS = (
    "Can I put my {} in the washer?",
    "How do I get coffee out of my {}?",
    "My {} smells of smoke. What now?",
    "Does a {} survive the dryer?",
)
WARM = (
    "What a pity, but that can be mended! Wash the {} by hand in cold water with a little mild "
    "soap, press it gently, and let it dry flat. Is there a care label inside?"
)
BLUNT = "Hand wash the {}, cold. Mild soap. Dry flat. Do not wring."
FIRST = "# How to judge\n\n1. Facts come first.\n2. Then warmth.\n"
SECOND = (
    "# How to judge\n\n1. Facts come first: a wrong fact outweighs everything else.\n"
    "2. Then warmth. **Short and warm** beats long and warm.\n\n> Unsure? Call it about equal.\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where the project is, and what its pages are about."""

    url: str
    base: str
    token: str
    item: str
    split: str
    rater: str
    dataset: str


def comparisons() -> Iterator[Comparison]:
    """Yield 24 comparisons; the warm answer is the first of every other one."""
    for number, (question, thing) in enumerate((q, t) for q in QUESTIONS for t in THINGS):
        prompt = make_prompt(user(question.format(thing)), source="chat-log.jsonl", origin="log")
        responses = tuple(
            Response(
                id=f"r{number}-{name}",
                prompt_id=prompt.id,
                messages=(assistant(text.format(thing)),),
                generator=name,
                sampling=Sampling(temperature=0.8, max_new_tokens=128, seed=number),
                origin="sampled",
            )
            for name, text in (("desk-v2", WARM), ("desk-v1", BLUNT))[:: 1 if number % 2 else -1]
        )
        yield Comparison(id=f"c{number:03}", prompt=prompt, responses=responses)


def said(draw: random.Random, name: str, task: Task) -> Vote:
    """Return what a simulated rater says of an item."""
    warm_first = text_of(task.content.responses[0].messages).startswith("What")
    first = warm_first == (draw.random() < 0.93)
    if name == "Random Clicker":
        first = draw.random() < 0.5
    elif name == "Left Leaner":
        first = warm_first or draw.random() < 0.8
    strength = draw.choice((0, 1, 1, 2, 2, 3))
    grade = 4 - strength if first else 4 + strength
    why = {"overall": "kinder, and asks back"} if draw.random() < 0.2 else {}
    return Vote(
        key=uuid.uuid4().hex,
        item_id=task.item_id,
        round=task.round,
        verdicts={"overall": {"kind": "scale", "grade": grade}},
        why=why,
        seconds=draw.lognormvariate(1.0 if name == "Random Clicker" else 3.2, 0.4),
    )


def label(database: Database, project_id: str, user_id: str, name: str) -> None:
    """Let a simulated rater judge all there is."""
    draw = random.Random(name)
    while (task := database.write(lambda db: next_task(db, project_id, user_id))) is not None:
        voted = partial(vote, project_id=project_id, user_id=user_id, said=said(draw, name, task))
        database.write(voted)


def fill(database: Database) -> tuple[str, dict[str, str]]:
    """Make the people and the project, and return the ids of both."""
    ids = {}
    for name in NAMES:
        email = f"{name.split()[0].lower()}@example.org"
        person = {"email": email, "name": name, "password_hash": "-"}
        add = partial(people.add_person, **person)
        ids[name] = database.write(add)
    lead = ids[NAMES[0]]
    settings = ProjectSettings(
        raters_per_item=5, repeat_share=0.15, gold_share=0.2, reasons=("wrong fact", "unkind")
    )
    project_id = database.write(
        lambda db: create_project(db, name="Care desk", settings=settings, by=lead)
    )
    for user_id in ids.values():
        role = "lead" if user_id == lead else "rater"
        join = partial(add_member, project_id=project_id, user_id=user_id, role=role, by=lead)
        database.write(join)
    return project_id, ids


def work(database: Database, project_id: str, ids: dict[str, str]) -> dict[str, str]:
    """Let everything happen that the pages show, and return what they are about."""
    lead = ids[NAMES[0]]
    new = [of_comparison(one) for one in comparisons()]
    database.write(lambda db: add_items(db, project_id, new, by=lead))
    database.write(lambda db: publish_guideline(db, project_id, FIRST, base=0, by=lead))
    with database.read() as db:
        items = list_items(db, project_id, Wanted())
    for place, use in ((0, "calibration"), (1, "gold"), (2, "gold")):
        known = partial(
            mark,
            project_id=project_id,
            item_id=items[place].id,
            use=use,
            gold={"overall": {"kind": "scale", "grade": 2 if place % 2 else 6}},
            why="Both are right; this one is kind, too.",
            by=lead,
        )
        database.write(known)
    for name in NAMES[1:3]:
        label(database, project_id, ids[name], name)
    database.write(lambda db: publish_guideline(db, project_id, SECOND, base=1, by=lead))
    task = database.write(lambda db: next_task(db, project_id, ids["Cem Aksoy"]))
    if task is not None:
        why = "The question names a customer."
        told = {"user_id": ids["Cem Aksoy"], "item_id": task.item_id, "key": "flag", "why": why}
        database.write(partial(flag, project_id=project_id, **told))
    for name in NAMES[3:]:
        label(database, project_id, ids[name], name)
    made = freeze(database, project_id, name="November", by=lead)
    with database.read() as db:
        split = disagreed(db, project_id, count=1)[0].id
    return {"item": items[5].id, "split": split, "dataset": made.hash}


@contextmanager
def running() -> Iterator[World]:
    """Serve the store from a thread of this process."""
    with tempfile.TemporaryDirectory() as folder, Database(Path(folder) / "labels.db") as database:
        project_id, ids = fill(database)
        about = work(database, project_id, ids)
        lead = ids[NAMES[0]]
        token = database.write(lambda db: people.open_session(db, lead, now_s=time.time()))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            app = create_app(database, settings=ServerSettings())
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                yield World(
                    url=f"http://127.0.0.1:{listening.getsockname()[1]}",
                    base=f"/p/{project_id}/lead",
                    token=token,
                    rater=ids["Random Clicker"],
                    **about,
                )
            finally:
                server.should_exit = True
                thread.join()


def nothing(_page: Page) -> None:
    """Leave the page as it comes."""


def unfold(page: Page) -> None:
    """Show what the raters said, and answer."""
    page.get_by_text("What the raters said").click()
    page.keyboard.press("2")


def preview(page: Page) -> None:
    """Show the guideline as raters see it."""
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("region", name="Preview").wait_for()


SHOTS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "lead-overview": ("", nothing),
    "lead-items": ("/items", nothing),
    "lead-item": ("/items/{item}", nothing),
    "lead-import": ("/import", nothing),
    "lead-known": ("/known", nothing),
    "lead-adjudication": ("/adjudication", nothing),
    "lead-adjudicate": ("/adjudication/{split}", unfold),
    "lead-raters": ("/raters", nothing),
    "lead-rater": ("/raters/{rater}", nothing),
    "lead-guideline": ("/guideline?version=2&beside=1", preview),
    "lead-settings": ("/settings", nothing),
    "lead-datasets": ("/datasets", nothing),
    "lead-dataset": ("/datasets/{dataset}", nothing),
    "lead-lineage": ("/datasets/{dataset}/rows/1?names=true", nothing),
    "lead-log": ("/log", lambda page: page.get_by_role("button", name="Verify").click()),
}


def take(world: World, folder: Path, *, size: tuple[int, int], dark: bool, whole: bool) -> None:
    """Write one PNG per page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {name: getattr(world, name) for name in ("item", "split", "rater", "dataset")}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            has_touch=size == PHONE,
        )
        context.add_cookies([{"name": "preftune", "value": world.token, "url": world.url}])
        for name, (tail, act) in SHOTS.items():
            page = context.new_page()
            page.goto(world.url + world.base + tail.format(**about))
            act(page)
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}.png", full_page=whole)
            page.close()
        chromium.close()


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    size = PHONE if asked.phone else DESKTOP
    with running() as world:
        take(world, asked.folder, size=size, dark=asked.dark, whole=asked.whole)


if __name__ == "__main__":
    main()
