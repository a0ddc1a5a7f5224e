"""Fixtures of the job tests: a small world, and jobs in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.job_server import JobServer, serve, write_rows
from tests.jobs.job_world import Jobs, demonstrations, pairs, prompts
from transformers import AutoModelForCausalLM

from preftune.files import read_json
from preftune.models.load import save_weights
from preftune.models.new import new_model
from preftune.models.presets import PRESETS, model_config


def shrink(folder: Path) -> None:
    """Put 20,000 random numbers in place of a model's weights: a job then takes a second."""
    old = read_json(folder / "config.json")
    size = replace(PRESETS["tiny"], width=32, layers=2, heads=2, feed_forward=64)
    ends = {"end_id": old["eos_token_id"], "pad_id": old["pad_token_id"]}
    torch.manual_seed(0)
    config = model_config(size, vocab_size=old["vocab_size"], **ends)
    save_weights(AutoModelForCausalLM.from_config(config), folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/ and, for each method, a training and a validation file."""
    folder = tmp_path_factory.mktemp("jobs")
    texts = [row["messages"][0]["content"] for row in prompts()]
    texts += [message["content"] for row in demonstrations() for message in row["messages"]]
    texts += [row["non_preferred_output"][0]["content"] for row in pairs()]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=80, seed=0, tokenizer="words")
    shrink(folder / "base")
    for name, rows in (("sft", demonstrations()), ("dpo", pairs()), ("rft", prompts())):
        write_rows(folder / f"{name}.jsonl", rows[:18])
        write_rows(folder / f"{name}-valid.jsonl", rows[18:])
    return folder


@pytest.fixture(scope="module")
def new_job(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Jobs]]:
    """Make a job: its method, and what else its spec says."""
    servers, made = [], list[Jobs]()

    def make(root: Path | None = None, **given: Any) -> Jobs:
        server = JobServer()
        servers.append(serve(server))
        made.append(
            Jobs(
                server=server,
                root=root or tmp_path_factory.mktemp("job"),
                world=world,
                given=given,
            )
        )
        return made[-1]

    yield make
    for jobs in made:
        if jobs.last is not None and jobs.last.is_alive():
            jobs.last.kill()
    for server in servers:
        server.shutdown()
        server.server_close()
