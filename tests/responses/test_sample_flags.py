"""`preftune sample` at the command line: several models and temperatures, here and at a URL."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.responses.chat_server import ChatServer, serving

from preftune.models.new import new_model
from preftune.records import decode, encode
from preftune.types import Response, make_prompt, user

PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat")]
Run = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer()) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[str | Path]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(b"".join(encode(prompt) for prompt in PROMPTS))
    return ["--prompts", prompts, "--out", tmp_path / "out.jsonl"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [
        new_model(
            folder / f"m{seed}",
            preset="tiny",
            texts=["wash it ?", "dry it or iron it ?"],
            vocab_size=64,
            seed=seed,
            tokenizer="words",
        )
        for seed in (0, 1)
    ]


def drawn(folder: Path) -> dict[tuple[str, float], int]:
    """How many responses each model gave at each temperature."""
    lines = (folder / "out.jsonl").read_bytes().splitlines()
    found = [record for line in lines if isinstance(record := decode(line), Response)]
    assert len({response.id for response in found}) == len(found)
    return Counter(
        ((r.generator or "").partition("@")[0], r.sampling.temperature) for r in found if r.sampling
    )


def test_models_here_each_at_each_temperature(
    run_cli: Run, files: list[str | Path], models: list[Path], tmp_path: Path
) -> None:
    ran = run_cli(
        "sample", *models, *files, "--n", 2, "--temperature", "0.5,1", "--max-new-tokens", 4
    )
    assert ran.code == 0, ran.err
    assert drawn(tmp_path) == {(name, t): 6 for name in ("m0", "m1") for t in (0.5, 1.0)}
    assert "24 responses to 3 prompts" in ran.out


def test_models_at_a_url_each_at_each_temperature(
    run_cli: Run, files: list[str | Path], server: ChatServer, tmp_path: Path
) -> None:
    there = ["--url", server.url, "--allow-url", server.url, "--model", "a", "--model", "b"]
    costs = ["--price-in", 1, "--price-in", 2, "--price-out", 3, "--price-out", 4, "--cost-cap", 1]
    command = ["sample", *files, *there, *costs, "--n", 2, "--temperature", "0.5,1"]
    ran = run_cli(*command, "--concurrency", 3, "--timeout", 5, "--max-new-tokens", 4)
    assert ran.code == 0, ran.err
    assert drawn(tmp_path) == {(name, t): 6 for name in "ab" for t in (0.5, 1.0)}
    assert {body["max_tokens"] for body in server.bodies} == {4}
    assert ran.out.splitlines()[0].startswith("24 requests, about ")
    # 12 calls to each, of 10 and 5 tokens: 12 * (10 * (1 + 2) + 5 * (3 + 4)) / 1e6
    assert "0.0008 USD spent on out.jsonl so far" in ran.out
    assert "24 responses to 3 prompts" in ran.out
    again = run_cli(*command, "--max-new-tokens", 4)
    assert "24 responses kept from an earlier run, 0 cut" in again.out
    assert len(server.bodies) == 24


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["MODEL", "URL"], "MODEL with --url. Leave it out: models at a URL are named by --model"),
        (["URL", "--batch-size", "4"], "--batch-size with --url"),
        (["URL", "--model", "a", "--top-k", "4"], "top_k 4: chat APIs have none"),
        (["URL"], "no model. Name one or more"),
        (["URL", "--model", "a", "--price-in", "1"], "1 --price-in, 0 --price-out, 1 --model"),
        (["URL", "--model", "a", "--cost-cap", "1"], "a cost cap without prices"),
        (["URL", "--model", "a", "--key-env", "canary-7f3a9c21d5"], "key_env: no environment"),
        (["URL", "--model", "a", "--concurrency", "0"], "concurrency"),
        (["URL", "--model", "a", "--timeout", "nan"], "timeout_s is nan"),
        (["--model", "a"], "--model without --url. Give --url"),
        (["MODEL", "--cost-cap", "1"], "--cost-cap without --url"),
        ([], "give one MODEL or more (or --url)"),
        (["MODEL", "MODEL", "--name", "x"], "--name only with one"),
        (["MODEL", "--temperature", "hot"], "temperature 'hot'. Give numbers with commas"),
        (["MODEL", "--temperature", "nan"], "temperature is nan"),
        (["MODEL", "--temperature", "0,1"], "n 4 at temperature 0"),
        (["MODEL", "--temperature", "1,1.0"], "one is given twice"),
        (["--url", "https://127.0.0.1:9", "--model", "a"], "--allow-url https://127.0.0.1:9"),
    ],
)
def test_contradiction_is_one_line_and_leaves_no_file(
    run_cli: Run,
    files: list[str | Path],
    server: ChatServer,
    models: list[Path],
    tmp_path: Path,
    flags: list[str],
    says: str,
) -> None:
    there = ["--url", server.url, "--allow-url", server.url]
    given: list[str | Path] = []
    for flag in flags:
        given += there if flag == "URL" else [models[0] if flag == "MODEL" else flag]
    ran = run_cli("sample", *files, *given)
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert "canary" not in ran.err
    assert server.bodies == []
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]
