"""docs/engine.md and docs/checkpoints.md say what the code does; their figures show it."""

import ast
import math
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from preftune.datasets import write_records
from preftune.engine.batches import Order
from preftune.engine.checkpoint import save_checkpoint
from preftune.engine.core import CHECK_TOKENS, PROBE_TOKENS, TOLERANCE
from preftune.engine.head import CHUNK_ELEMENTS
from preftune.engine.learner import Learner
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.models.new import new_model
from preftune.training import direct
from preftune.training.settings import DirectSettings, ProbeSettings, RunSettings
from preftune.types import PreferencePair, assistant, make_prompt, user

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
FIGURES = ("attention.svg", "head.svg", "saving.svg", "stream.svg")
ENGINE = (ROOT / "docs" / "engine.md").read_text()
CHECKPOINTS = (ROOT / "docs" / "checkpoints.md").read_text()


class Elements(HTMLParser):
    """The elements of a figure in order: tag, attributes, text right inside."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None], str]] = []
        self.opened: list[int] = []
        self.feed((IMAGES / name).read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(len(self.all))
        self.all.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.opened:
            tag, attributes, text = self.all[self.opened[-1]]
            self.all[self.opened[-1]] = (tag, attributes, text + data)

    def handle_endtag(self, tag: str) -> None:
        assert self.all[self.opened.pop()][0] == tag


def test_engine_example_gives_the_same_sums_both_ways(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", ENGINE, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "example.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    fast, plain = (ast.literal_eval(part + "]") for part in ran.stdout.strip().split("]")[:2])
    assert fast == pytest.approx(plain, abs=1e-5)
    # fresh weights are small, so the softmax is nearly flat: log 1/50 for each of 3 and 2 tokens
    assert fast == pytest.approx([-3 * math.log(50), -2 * math.log(50)], rel=0.05)


def test_engine_page_lists_the_architectures_that_are_tested() -> None:
    tree = ast.parse((ROOT / "tests" / "engine" / "test_core.py").read_text())
    tested = {
        line.target.id: [
            key.value
            for key in line.value.keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
        for line in tree.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and isinstance(line.value, ast.Dict)
    }
    (listed,) = re.findall(r"random models\): (.*?) don't\.", ENGINE, flags=re.DOTALL)
    shared, unshared = (re.findall(r"`(\w+)`", part) for part in listed.split(" share; "))
    assert (shared, sorted(unshared)) == (tested["SHARED"], sorted(tested["UNSHARED"]))


def test_engine_page_has_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| (\S+) \|", ENGINE, flags=re.MULTILINE))
    defaults = {
        field.name.replace("_", "-"): "off" if field.default is False else f"{field.default}"
        for field in fields(EngineSettings)
    }
    assert {name: default.strip("`") for name, default in rows.items()} == defaults


def test_engine_page_numbers_are_those_of_the_code() -> None:
    assert CHUNK_ELEMENTS == 2**24  # "2²⁴ logits"
    assert CHUNK_ELEMENTS * 4 == 64 * 2**20  # "64 MiB"
    assert CHUNK_ELEMENTS // 151_936 == 110
    assert round(4_096 * 151_936 * 4 / 1e9, 1) == 2.5
    assert (TOLERANCE[torch.float32], TOLERANCE[torch.bfloat16]) == (1e-4, 0.25)
    assert (PROBE_TOKENS, CHECK_TOKENS) == (12, 1_024)
    said = ("2²⁴", "64 MiB", "110 tokens", "2.5\nGB", "1e-4 nats", "(.25 in bf16)", "12 tokens")
    assert not [words for words in (*said, "1,024 tokens") if words not in ENGINE]


def test_figures_are_what_the_script_draws(tmp_path: Path) -> None:
    script = IMAGES / "draw.py"
    ran = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == list(FIGURES)
    for name in FIGURES:
        same = (tmp_path / name).read_bytes() == (IMAGES / name).read_bytes()
        assert same, f"run: python docs/images/draw.py docs/images ({name})"


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_shown_described_and_loads_nothing(name: str) -> None:
    assert f"](images/{name})" in ENGINE + CHECKPOINTS
    figure = Elements(name)
    assert not figure.opened
    texts = {tag: text for tag, _, text in figure.all}
    assert texts.keys() <= {"svg", "title", "desc", "style", "rect", "text", "path"}
    assert len(texts["title"]) < len(texts["desc"])
    assert "url(" not in (IMAGES / name).read_text()


def test_attention_figure_shows_each_sequence_causal_and_nothing_else() -> None:
    # two pairs: prompts of 4 and 3, chosen of 3 and 2, rejected of 2 and 2 tokens
    sequences = [[*range(7)], [0, 1, 2, 3, 7, 8], [*range(9, 14)], [9, 10, 11, 14, 15]]
    expected = {(q, k) for places in sequences for q, k in product(places, places) if k <= q}
    names = [attributes.get("id") for _, attributes, _ in Elements("attention.svg").all]
    drawn = [tuple(map(int, name.split("-sees-"))) for name in names if name]
    assert len(drawn) == 28 + (21 - 10) + 15 + (15 - 6)  # a shared prompt counts once
    assert set(drawn) == expected


def test_stream_figure_shows_positions_that_go_on_after_the_prompt() -> None:
    lines: dict[str | None, list[int]] = {}
    for tag, attributes, words in Elements("stream.svg").all:
        if tag == "text" and words.isdigit():
            lines.setdefault(attributes["y"], []).append(int(words))
    assert list(lines.values()) == [[*range(9)], [0, 1, 2, 3, 4, 5, 6, 4, 5]]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", ["LIGHT", "DARK"])
def test_figures_are_legible_in_light_and_dark(palette: str) -> None:
    colours = runpy.run_path(str(IMAGES / "draw.py"))[palette]

    def contrast(front: str, back: str) -> float:
        bright, dim = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    for back in ("card", "empty", "prompt", "chosen", "rejected"):
        assert contrast("ink", back) >= 4.5, back
    assert min(contrast("muted", back) for back in ("card", "empty")) >= 4.5
    assert contrast("accent", "card") >= 3.0


def test_checkpoint_page_names_every_file_and_its_size(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    order = Order(lengths=(1,), batch_size=1, epochs=1.0, seed=0)
    learner = Learner.of(model, order, OptimizerSettings())
    model(torch.ones(1, 100)).sum().backward()
    learner.update(0)
    learner.extra["mean"] = torch.ones(())
    folder = save_checkpoint(
        tmp_path, step=200, tensors=learner.tensors(), state={}, origin={"data": "d"}
    )
    assert f"`checkpoints/{folder.name}/`" in CHECKPOINTS
    for path in folder.iterdir():
        assert f"| `{path.name}` |" in CHECKPOINTS
    weights = sum(p.numel() for p in model.parameters())
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert stored / weights == pytest.approx(12, rel=0.1)


def test_checkpoint_page_names_every_file_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", "off")
    pairs = [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ?")),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(8)
    ]
    texts = [f"question {n} ? a kind answer to {n} . no {n} ." for n in range(8)]
    base, data, run = tmp_path / "base", tmp_path / "pairs.jsonl", tmp_path / "run"
    new_model(base, preset="tiny", texts=texts, vocab_size=80, seed=0, tokenizer="words")
    write_records(data, pairs, format="preftune")
    direct.train(
        DirectSettings(
            model=str(base),
            data=data,
            held_out=data,
            optimizer=OptimizerSettings(batch_size=4, epochs=1.0),
            probe=ProbeSettings(probe_every=2, probe_prompts=2, probe_tokens=4),
            run=RunSettings(out=run),
        )
    )
    (_, table) = CHECKPOINTS.split("## The run folder")
    named = set(re.findall(r"`([\w./]+)`", table))
    for path in run.iterdir():
        if path.name != "plots":
            assert path.name + "/" * path.is_dir() in named, path.name
