"""`preftune demo --label` as somebody does it: open the link, judge in Chromium, press Ctrl-C."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from tests.serving.browser_world import CHROMIUM, FLAGS
from tests.serving.conftest import WORDS, free_port
from tests.serving.rater_world import wait_for_item

from preftune.datasets import read_pairs
from preftune.demo.by_hand import LEAST
from preftune.demo.labelling import PROMPTS
from preftune.demo.raters import quality
from preftune.demo.world import CareDesk
from preftune.types import Prompt, text_of

DEMO = [sys.executable, "-m", "preftune.cli.main", "demo", "--label", "--quick", "--threads", "1"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The demo at a tenth of its size, which is the least that goes through every stage."""
    where = ["--out", str(tmp_path / "run"), "--label-port", str(free_port())]
    process = subprocess.Popen(
        [*DEMO, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    yield process
    process.kill()
    process.communicate()


def link_of(process: "subprocess.Popen[str]") -> str:
    """Return the link that the demo prints once it wants to be labelled."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.strip().startswith("open "):
            return line.split()[-1]
    raise AssertionError("".join(said))


def come_in(page: Page, link: str) -> None:
    """Make an account, and go to the labelling page."""
    page.goto(link)
    page.get_by_label("Your name").fill("Nia")
    page.get_by_label("E-mail address").fill("nia@example.org")
    page.get_by_label("Password").fill(WORDS)
    page.get_by_role("button", name="Make my account").click()
    page.get_by_role("link", name="Label").click()
    wait_for_item(page, 1)


@pytest.fixture(scope="module")
def asked(desk: CareDesk) -> dict[tuple[str, ...], Prompt]:
    """What the demo asks about, by the turns that stand on the page."""
    prompts = desk.label_prompts(PROMPTS // 10, seed=0)
    return {tuple(m.content for m in p.messages if m.role != "system"): p for p in prompts}


def judge(page: Page, desk: CareDesk, asked: dict[tuple[str, ...], Prompt]) -> bool:
    """Choose the reply that truly is better, as a careful person would; return whether one is."""
    prompt = asked[tuple(page.locator("#prompt-turns .turn:not(.folded) .text").all_inner_texts())]
    one, two = (
        quality(prompt, text.strip(), desk.cards)
        for text in page.locator(".response .pane").all_inner_texts()
    )
    page.keyboard.press("4" if one == two else "2" if one > two else "6")
    return one != two


@pytest.mark.slow
def test_what_a_person_says_in_the_browser_tunes_the_model(
    demo: "subprocess.Popen[str]",
    desk: CareDesk,
    asked: dict[tuple[str, ...], Prompt],
    tmp_path: Path,
) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page()
        come_in(page, link_of(demo))
        decided, number = 0, 1
        while decided < LEAST:
            decided += judge(page, desk, asked)
            page.keyboard.press("Enter")
            number += 1
            wait_for_item(page, number)
        demo.send_signal(signal.SIGINT)
        chromium.close()
    said, _ = demo.communicate(timeout=300)
    assert f"{number - 1} verdicts, of which {LEAST} take a side" in said
    assert f"{LEAST} pairs" in said
    assert "verdict:" in said
    assert demo.returncode in (0, 1, 3)  # the gate's
    pairs = list(read_pairs(tmp_path / "run" / "pairs.jsonl"))
    assert len(pairs) == LEAST
    for pair in pairs:
        better, worse = (
            quality(pair.prompt, text_of(side), desk.cards) for side in (pair.chosen, pair.rejected)
        )
        assert better > worse
    report = (tmp_path / "run" / "report.html").read_text()
    assert "One person compared these replies in a browser" in report
    assert "No person judged" not in report
    assert (tmp_path / "run" / "dpo" / "final" / "model.safetensors").exists()
