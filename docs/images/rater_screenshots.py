"""Take the pictures of docs/raters-guide.md from the page itself, over a small store of its own.

    python docs/images/rater_screenshots.py docs/images
    python docs/images/rater_screenshots.py FOLDER --all --dark    every state, in the dark
    python docs/images/rater_screenshots.py FOLDER --all --phone   every state, on a phone

Needs the extra `dev` (playwright) and Debian's chromium.
"""

import argparse
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from preftune.serving.app import create_app
from preftune.serving.settings import ServerSettings
from preftune.store import people
from preftune.store.database import Database
from preftune.store.items import NewItem, Verdict, add_items, of_comparison, of_response
from preftune.store.projects import (
    ProjectSettings,
    add_member,
    create_project,
    publish_guideline,
)
from preftune.types import (
    Comparison,
    Message,
    Prompt,
    Response,
    ToolCall,
    assistant,
    make_prompt,
    user,
)

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = (1280, 800), (390, 844)
RATER = "Ann Rater"
GUIDELINE = """# How to judge

Say which answer **helps this person more**. Read both to the end before you decide.

1. A wrong fact outweighs everything else.
2. Warm and short beats warm and long.
3. An answer that asks back where something is unclear is a good answer.

> Unsure? Call it about equal, and say why.
"""

BEAR = (
    "Can I put my teddy bear in the washer? It is old, and my daughter will not sleep without it."
)
BLUNT = (
    "No. Old plush falls apart in the drum. Hand wash, cold, mild soap. Press, do not wring. "
    "Dry flat."
)
WARM = """What a well-loved bear! Better wash it by hand, so that the seams hold:

1. Fill a bowl with **cold** water and a little mild soap.
2. Press the bear gently for a few minutes, and rinse it.
3. Roll it in a towel, and let it dry flat in the air.

If it is dry by the evening, nobody has to sleep without it. Does it have a music box or a
battery inside? Then tell me before you wash it."""
SHORT = "Yes, 30 °C is fine, in a pillow case. Air dry."
POLICY = (
    "You answer questions about caring for things at home. Be warm. Never guess at a care label."
)
NOT_USED = "-"  # nobody signs in with one: the session is opened in the store


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where the projects are, and who is signed in."""

    url: str
    projects: dict[str, str]  # name → id
    token: str


def response(prompt: Prompt, text: str, number: int) -> Response:
    """Return an answer to a prompt."""
    return Response(id=f"r{number}", prompt_id=prompt.id, messages=(assistant(text),))


def compared(*texts: str, prompt: Prompt, number: int = 0) -> Comparison:
    """Return answers to one prompt."""
    found = tuple(response(prompt, text, at) for at, text in enumerate(texts))
    return Comparison(id=f"c{number}", prompt=prompt, responses=found)


def conversation() -> Prompt:
    """Return a prompt of several turns, with a tool."""
    call = ToolCall(name="care_label", arguments='{"item": "teddy bear", "age_years": 30}')
    return make_prompt(
        Message(role="system", content=POLICY),
        user("Hello! I have a question about a teddy bear."),
        assistant("Of course. What is it made of, and how old is it?"),
        user("Plush, I think. About thirty years."),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", name="care_label", content='{"label": null, "advice": "hand wash"}'),
        user(BEAR),
    )


def plain_items() -> list[NewItem]:
    """Return one comparison that is seen, and many that only count."""
    one = of_comparison(compared(BLUNT, WARM, prompt=make_prompt(user(BEAR))))
    rest = (
        of_comparison(compared(BLUNT, WARM, prompt=make_prompt(user(f"{BEAR} ({at})")), number=at))
        for at in range(1, 60)
    )
    return [one, *rest]


def practice_items() -> list[NewItem]:
    """Return a comparison with a known answer and why it is right."""
    right: Verdict = {"kind": "scale", "grade": 6, "why": "Both are right; this one is kind, too."}
    shown = compared(BLUNT, WARM, prompt=make_prompt(user(BEAR)))
    return [of_comparison(shown, use="calibration", gold={"overall": right})]


def fill(database: Database) -> tuple[dict[str, str], str]:
    """Make a project of each kind, and return their ids and a token of the rater's."""
    rater = database.write(
        lambda db: people.add_person(
            db, email="ann@example.org", name=RATER, password_hash=NOT_USED, is_admin=False
        )
    )
    bear = make_prompt(user(BEAR))
    reasons = ("wrong fact", "too long", "unkind", "asks back")
    made: dict[str, tuple[ProjectSettings, list[NewItem]]] = {
        "scale": (ProjectSettings(reasons=reasons), plain_items()),
        "dimensions": (
            ProjectSettings(dimensions=("helpful", "harmless", "tone"), reasons=reasons),
            [of_comparison(compared(BLUNT, WARM, prompt=conversation()))],
        ),
        "binary": (ProjectSettings(kind="binary"), plain_items()),
        "ranking": (
            ProjectSettings(kind="ranking"),
            [of_comparison(compared(BLUNT, WARM, SHORT, prompt=bear))],
        ),
        "rewrite": (
            ProjectSettings(kind="rewrite"),
            [of_response(bear, response(bear, BLUNT, 0))],
        ),
        "practice": (ProjectSettings(), practice_items()),
        "done": (ProjectSettings(), []),
    }
    ids = {name: make(database, name, rater, *what) for name, what in made.items()}
    return ids, database.write(lambda db: people.open_session(db, rater, now_s=time.time()))


def make(
    database: Database, name: str, rater: str, settings: ProjectSettings, new: list[NewItem]
) -> str:
    """Make one project and return its id."""
    title = f"Care desk: {name}"
    made = database.write(lambda db: create_project(db, name=title, settings=settings, by="lead"))
    database.write(lambda db: add_member(db, made, rater, "rater", by="lead"))
    database.write(lambda db: add_items(db, made, new, by="lead"))
    database.write(lambda db: publish_guideline(db, made, GUIDELINE, base=0, by="lead"))
    return made


@contextmanager
def running() -> Iterator[World]:
    """Serve the store from a thread of this process."""
    with tempfile.TemporaryDirectory() as folder, Database(Path(folder) / "labels.db") as database:
        projects, token = fill(database)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            app = create_app(database, settings=ServerSettings())
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                port = listening.getsockname()[1]
                yield World(url=f"http://127.0.0.1:{port}", projects=projects, token=token)
            finally:
                server.should_exit = True
                thread.join()


def judge(page: Page) -> None:
    """Give a verdict and a reason, and leave both unsaved."""
    page.keyboard.press("6")
    page.get_by_role("button", name="unkind").click()


def rank(page: Page) -> None:
    """Put the responses in an order."""
    page.get_by_role("button", name="B up").click()


def rewrite(page: Page) -> None:
    """Write a kinder version."""
    page.get_by_label("Your version").fill(
        "Better not: old plush can fall apart in the drum. Hand wash it, cold, with mild soap. "
        "Press, do not wring, and dry it flat. It will be soft again by tomorrow."
    )


def learn(page: Page) -> None:
    """Answer the practice item wrongly."""
    first = page.locator(".response").first.inner_text()
    page.keyboard.press("7" if "well-loved" in first else "1")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Go on").wait_for()


def work(page: Page) -> None:
    """Save two verdicts, and look at them."""
    for number, key in enumerate(("6", "2"), start=2):
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=f"Item {number} ", exact=False).wait_for()
    page.keyboard.press("h")
    page.get_by_role("dialog").wait_for()


SHOTS: dict[str, tuple[str, Callable[[Page], object]]] = {
    "rater-scale": ("scale", judge),
    "rater-markdown": ("scale", lambda page: page.keyboard.press("m")),
    "rater-differences": ("scale", lambda page: page.keyboard.press("d")),
    "rater-dimensions": ("dimensions", judge),
    "rater-binary": ("binary", lambda page: page.keyboard.press("2")),
    "rater-ranking": ("ranking", rank),
    "rater-rewrite": ("rewrite", rewrite),
    "rater-practice": ("practice", learn),
    "rater-guideline": ("scale", lambda page: page.keyboard.press("g")),
    "rater-keys": ("scale", lambda page: page.keyboard.press("?")),
    "rater-flag": ("scale", lambda page: page.keyboard.press("f")),
    "rater-history": ("scale", work),
    "rater-done": ("done", lambda _page: None),
}


GUIDE = ("rater-scale", "rater-dimensions", "rater-markdown", "rater-practice")


def take(world: World, file: Path, name: str, *, size: tuple[int, int], dark: bool) -> None:
    """Write one state of the page as PNG."""
    project, act = SHOTS[name]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = chromium.new_page(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            has_touch=size == PHONE,
        )
        page.context.add_cookies([{"name": "preftune", "value": world.token, "url": world.url}])
        page.goto(f"{world.url}/p/{world.projects[project]}/label")
        page.locator("#item:not([hidden]), #nothing:not([hidden])").wait_for()
        page.keyboard.press("g")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        act(page)
        page.wait_for_timeout(300)
        file.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=file)
        chromium.close()


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for flag in ("--all", "--dark", "--phone"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    size = PHONE if asked.phone else DESKTOP
    with running() as world:
        for name in SHOTS if asked.all else GUIDE:
            take(world, asked.folder / f"{name}.png", name, size=size, dark=asked.dark)
        if not asked.all:
            file = asked.folder / "rater-phone.png"
            take(world, file, "rater-scale", size=PHONE, dark=asked.dark)


if __name__ == "__main__":
    main()
