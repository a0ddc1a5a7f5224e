"""Rollouts over HTTP: a real server with a real model whose adapters are really swapped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.inference.conftest import VOCAB
from tests.inference.token_fakes import END, Served, adapted, serving

from preftune.errors import ModelError, SettingsError
from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.url_rollouts import RUN, UrlRollouts, UrlRolloutSettings
from preftune.responses.remote import HttpSettings

PROMPTS = [(3, 4, 5), (6, 7), (3, 4, 5)]
SEEDS = [11, 12, 13]
DRAW = GenerateSettings(max_new_tokens=6)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(Served()) as server:
        yield server


def source(
    served: Served,
    folder: Path,
    *,
    draw: GenerateSettings = DRAW,
    settings: UrlRolloutSettings | None = None,
    names: str = "a",
    **http: Any,
) -> UrlRollouts:
    quick: dict[str, Any] = {
        "attempts": 3,
        "backoff_s": 0.0,
        "timeout_s": 20.0,
        "concurrency": 2,
    } | http
    if names:
        (folder / RUN).write_text(names)
    return UrlRollouts(
        HttpSettings(url=served.url, allow_urls=(served.url,), **quick),
        draw,
        settings or UrlRolloutSettings(),
        folder=folder,
        end_ids=(END,),
        vocab_size=VOCAB,
    )


def test_what_comes_back_is_what_the_published_weights_draw(served: Served, tmp_path: Path) -> None:
    rollouts = source(served, tmp_path)
    for version in (1, 2):  # other weights: a server that kept the old ones would be found out
        model = adapted(version)
        rollouts.publish(model, version=version)
        found = rollouts.draw(PROMPTS, SEEDS)
        here = generate(model, PROMPTS, DRAW, seeds=SEEDS, end_ids=(END,), pad_id=1)
        assert [r.response_ids for r in found] == [g.ids for g in here]
        assert [r.finished for r in found] == [g.finished for g in here]
        assert [r.version for r in found] == [version] * 3
        assert [r.prompt_ids for r in found] == PROMPTS
        for rollout, drawn in zip(found, here, strict=True):
            assert rollout.logprobs == pytest.approx(drawn.sampled_logprobs, abs=1e-5)


def test_adapters_too_old_are_unloaded_and_their_folders_deleted(
    served: Served, tmp_path: Path
) -> None:
    rollouts = source(served, tmp_path, settings=UrlRolloutSettings(max_staleness=1))
    for version in (1, 2, 3):
        rollouts.publish(adapted(version), version=version)
    assert sorted(served.model.peft_config) == ["policy-a-2", "policy-a-3"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run", "version-2", "version-3"]


def test_a_run_that_goes_on_publishes_the_same_version_again(
    served: Served, tmp_path: Path
) -> None:
    source(served, tmp_path).publish(adapted(1), version=4)
    again, model = source(served, tmp_path), adapted(2)
    again.publish(model, version=4)
    (found,) = again.draw(PROMPTS[:1], SEEDS[:1])
    (here,) = generate(model, PROMPTS[:1], DRAW, seeds=SEEDS[:1], end_ids=(END,), pad_id=1)
    assert found.response_ids == here.ids
    assert found.logprobs == pytest.approx(here.logprobs, abs=1e-5)


def test_runs_that_share_a_server_draw_from_their_own_weights(
    served: Served, tmp_path: Path
) -> None:
    for number in (1, 2):
        rollouts, model = source(served, tmp_path / str(number), names=""), adapted(number)
        rollouts.publish(model, version=4)
        (found,) = rollouts.draw(PROMPTS[:1], SEEDS[:1])
        (here,) = generate(model, PROMPTS[:1], DRAW, seeds=SEEDS[:1], end_ids=(END,), pad_id=1)
        assert found.response_ids == here.ids
        assert found.logprobs == pytest.approx(here.logprobs, abs=1e-5)
    assert len(served.model.peft_config) == 2
    rollouts.close()
    assert len(served.model.peft_config) == 1


@pytest.mark.parametrize("fault", ["500", "cut", "no logprobs", "other ids", "model:policy-a-0"])
def test_what_goes_wrong_once_is_asked_again(served: Served, tmp_path: Path, fault: str) -> None:
    rollouts = source(served, tmp_path)
    rollouts.publish(adapted(1), version=1)
    served.fault = lambda number: fault if number == 1 else ""
    assert len(rollouts.draw(PROMPTS, SEEDS)) == 3
    assert len(served.bodies) == 4
    assert rollouts.refused == fault.startswith("model:")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "HTTP 500: it is broken"),
        ("cut", "connection cut"),
        ("no logprobs", "0 log-probs for"),
        ("short logprobs", "log-probs for"),
        ("wild logprobs", "above 0"),
        ("other ids", "two lists of ids that differ"),
        ("ids too large", "outside the vocabulary"),
        ("other prompt", "another prompt"),
        ("text", "text, where ids"),
        ("model:policy-a-0", "2 steps behind, where max_staleness is 0"),
        ("model:tiny-llama", "no published policy"),
        ("model:policy-a-9", "newer than 2"),
    ],
)
def test_what_stays_wrong_ends_the_draw_and_says_why(
    served: Served, tmp_path: Path, fault: str, said: str
) -> None:
    rollouts = source(served, tmp_path, attempts=2)
    rollouts.publish(adapted(1), version=2)
    served.fault = lambda _: fault
    with pytest.raises(ModelError, match=said):
        rollouts.draw(PROMPTS[:1], SEEDS[:1])
    assert rollouts.refused == 2 * (fault == "model:policy-a-0")


def test_a_response_a_little_behind_is_taken_with_its_own_version(
    served: Served, tmp_path: Path
) -> None:
    rollouts = source(served, tmp_path, settings=UrlRolloutSettings(max_staleness=2))
    rollouts.publish(adapted(1), version=5)
    served.fault = lambda _: "model:policy-a-3"
    assert rollouts.draw(PROMPTS[:1], SEEDS[:1])[0].version == 3
    assert rollouts.refused == 0


def test_an_adapter_whose_loading_was_answered_by_half_is_there(
    served: Served, tmp_path: Path
) -> None:
    rollouts = source(served, tmp_path)
    served.loads_cut = 1
    rollouts.publish(adapted(1), version=1)
    assert served.loads == ["policy-a-1", "policy-a-1"]  # the second was refused: there already
    assert rollouts.draw(PROMPTS[:1], SEEDS[:1])[0].version == 1


def test_ids_given_as_names_are_read_as_well(served: Served, tmp_path: Path) -> None:
    rollouts = source(served, tmp_path)
    rollouts.publish(adapted(1), version=1)
    plain = rollouts.draw(PROMPTS, SEEDS)
    served.fault = lambda _: "names"
    assert rollouts.draw(PROMPTS, SEEDS) == plain


def test_nothing_is_drawn_before_anything_is_published(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights were published"):
        source(served, tmp_path).draw(PROMPTS, SEEDS)
    assert not served.bodies


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with serving(Served()) as gone:
        rollouts = source(gone, tmp_path, attempts=1)
    with pytest.raises(ModelError, match="would not load policy-a-1"):
        rollouts.publish(adapted(1), version=1)


@pytest.mark.parametrize(
    ("draw", "served_logprobs", "said"),
    [
        (GenerateSettings(temperature=0.7), "raw", "those of temperature 1"),
        (GenerateSettings(top_p=0.9), "processed", "filtered draw"),
        (GenerateSettings(temperature=0), "raw", "temperature 0"),
        (GenerateSettings(stop=("x",)), "raw", "stop"),
    ],
)
def test_draws_whose_logprobs_the_server_cannot_give_are_refused(
    tmp_path: Path, draw: GenerateSettings, served_logprobs: Any, said: str
) -> None:
    settings = UrlRolloutSettings(served_logprobs=served_logprobs)
    with pytest.raises(SettingsError, match=said):
        source(Served(port=9), tmp_path, draw=draw, settings=settings)
