"""The tour as a program: `python -m tests.tour.take_tour PLAN`, with one `openai` on its path.

PLAN is a JSON file: where the server is, its key, rows, and which client. What each check found is
written into the file that it names.
"""

import asyncio
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.tour import tour_files, tour_jobs, tour_models, tour_refusals
from tests.tour.touring import CHECKS, NEWEST, ONCE, Blocking, Tour

PARTS = (tour_files, tour_jobs, tour_refusals, tour_models)  # in the order of the tour
LINES = ("3", "1")  # of the client, the newest first


def take(plan: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong by check, "" where nothing is."""
    import openai

    loop = asyncio.new_event_loop()
    is_async = plan["client"] == "async"
    given = {"base_url": plan["url"], "api_key": plan["key"]}
    make = openai.AsyncOpenAI if is_async else openai.OpenAI
    made = [make(**given, _strict_response_validation=strict) for strict in (True, False)]
    client, lenient = (Blocking(one, loop) for one in made) if is_async else made
    tour = Tour(
        client=client,
        lenient=lenient,
        openai=openai,
        folder=Path(plan["rows"]),
        story={},
        key=plan["key"],
        url=plan["url"],
    )
    found = {"version": "" if openai.__version__ == plan["version"] else openai.__version__}
    for name in names(plan["line"], plan["client"]):
        try:
            CHECKS[name](tour)
            found[name] = ""
        except (
            AssertionError,
            LookupError,
            AttributeError,
            TypeError,
            ValueError,
            openai.OpenAIError,
        ):
            found[name] = traceback.format_exc()
    client.close()
    lenient.close()
    loop.close()
    return found


def names(line: str, client: str) -> list[str]:
    """Return the checks that a client makes."""
    left_out = set() if client == "sync" else ONCE
    if (line, client) != (LINES[0], "sync"):
        left_out = left_out | NEWEST
    ordered = (
        name for part in PARTS for name in CHECKS if CHECKS[name].__module__ == part.__name__
    )
    return [name for name in ordered if name not in left_out]


if __name__ == "__main__":
    warnings.simplefilter("error", ResourceWarning)  # what the client says of itself is its own
    plan = json.loads(Path(sys.argv[1]).read_text())
    Path(plan["found"]).write_text(json.dumps(take(plan)))
