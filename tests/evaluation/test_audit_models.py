"""Models in an audit: planted flips are found, off-policy text is told, a stopped run goes on."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from preftune.datasets.audit_material import LinedPair
from preftune.datasets.read import read_pairs
from preftune.engine.settings import OptimizerSettings
from preftune.errors import DataError
from preftune.evaluation.audit_models import (
    SUSPICIOUS,
    AuditModelSettings,
    fold_margins,
    folds_of,
    model_sections,
    noise_section,
    write_suspicious,
)
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.models.new import new_model
from preftune.training import reward
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings
from preftune.types import PreferencePair, assistant, make_prompt, text_of, user

WARM = ("thank you", "of course", "happy to help", "gladly")
BLUNT = ("obviously", "whatever", "as i said", "figure it out")
WORDS = tuple(f"word{n}" for n in range(16))
PAIRS, FLIPS = 240, 0.2


def world(seed: int) -> tuple[list[LinedPair], set[int]]:
    """Return pairs in which warm beats blunt, but for a fifth of flipped ones, and their lines."""
    rng = random.Random(seed)
    pairs, flipped = [], set()
    for line in range(1, PAIRS + 1):
        prompt = make_prompt(user(f"question {line} about {rng.choice(WORDS)} ?"))
        good, bad = (reply(tone, rng) for tone in (WARM, BLUNT))
        if rng.random() < FLIPS:
            good, bad = bad, good
            flipped.add(line)
        pair = PreferencePair(
            id=f"p{line}", prompt=prompt, chosen=(assistant(good),), rejected=(assistant(bad),)
        )
        pairs.append(LinedPair(line=line, prompt=prompt.id, pair=pair))
    return pairs, flipped


def reply(tones: tuple[str, ...], rng: random.Random) -> str:
    before, after = (rng.choices(WORDS, k=rng.randint(1, 3)) for _ in range(2))
    return " ".join([*before, rng.choice(tones), *after])


def train(settings: AuditModelSettings, *, data: Path, out: Path) -> Path:
    return reward.train(
        RewardSettings(
            model=settings.model,
            data=data,
            run=RunSettings(out=out, threads=1, seed=settings.seed),
            optimizer=OptimizerSettings(
                lr=settings.lr, epochs=settings.epochs, batch_size=settings.batch_size
            ),
        )
    )


class Untrained:
    """Publishes a reward model as it starts; stops at one of its calls, as a killed run would."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, settings: AuditModelSettings, *, data: Path, out: Path) -> Path:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        out.mkdir()
        model = new_reward_model(settings.model, seed=len(read_pairs(data)))
        return save_reward_model(model, load_chat(settings.model), out / "final")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        text
        for lined in world(0)[0]
        for text in (
            text_of(lined.pair.chosen),
            text_of(lined.pair.rejected),
            lined.pair.prompt.messages[0].content,
        )
    ]
    folder = tmp_path_factory.mktemp("models") / "base"
    return new_model(folder, preset="tiny", texts=texts, vocab_size=400, seed=0, tokenizer="words")


def settings(base: Path, **changes: object) -> AuditModelSettings:
    values: dict[str, object] = {
        "model": str(base),
        "folds": 2,
        "lr": 3e-3,
        "epochs": 3.0,
        "batch_size": 16,
        "prompts": 30,
        "max_new_tokens": 8,
    }
    return AuditModelSettings(**(values | changes))  # type: ignore[arg-type]  # names above


def test_planted_flips_are_found_far_above_chance_and_their_share_estimated(
    base: Path, tmp_path: Path
) -> None:
    pairs, flipped = world(0)
    margins = fold_margins(pairs, settings(base), out=tmp_path, train=train)
    section, fit = noise_section(pairs, margins)
    assert fit.rate.value == pytest.approx(len(flipped) / PAIRS, abs=0.07)
    assert fit.rate.low <= len(flipped) / PAIRS <= fit.rate.high
    assert section.findings[0].kind == "label_noise"
    write_suspicious(tmp_path / SUSPICIOUS, pairs, margins, fit)
    rows = [json.loads(line) for line in (tmp_path / SUSPICIOUS).read_text().splitlines()]
    top = [row["line"] for row in rows[: len(flipped)]]
    assert np.mean([line in flipped for line in top]) > 0.75  # by chance: .19
    assert [row["margin"] for row in rows] == sorted(row["margin"] for row in rows)
    assert not list((tmp_path / "folds").rglob("fold-*"))  # run folders are gone


def test_a_stopped_run_goes_on_and_ends_with_the_same_margins(base: Path, tmp_path: Path) -> None:
    pairs, s = world(1)[0][:24], settings(base, epochs=1.0, folds=3)
    with pytest.raises(KeyboardInterrupt):
        fold_margins(pairs, s, out=tmp_path / "a", train=Untrained(fails_at=2))
    rest, whole, none = Untrained(), Untrained(), Untrained()
    went_on = fold_margins(pairs, s, out=tmp_path / "a", train=rest)
    assert went_on.tolist() == fold_margins(pairs, s, out=tmp_path / "b", train=whole).tolist()
    assert went_on.tolist() == fold_margins(pairs, s, out=tmp_path / "a", train=none).tolist()
    assert (rest.calls, whole.calls, none.calls) == (2, 3, 0)


def test_scores_of_other_pairs_or_settings_are_never_taken(base: Path, tmp_path: Path) -> None:
    pairs = world(1)[0][:12]
    for changed in (
        (pairs, settings(base, epochs=1.0)),
        (pairs, settings(base, epochs=1.0, lr=4e-3)),
        (pairs[::-1], settings(base, epochs=1.0)),
    ):
        counted = Untrained()
        fold_margins(*changed, out=tmp_path, train=counted)
        assert counted.calls == 2


def test_a_pair_is_never_scored_by_a_model_that_saw_its_prompt() -> None:
    prompts = [f"p{n % 37}" for n in range(150)]
    fold = folds_of(prompts, 5, seed=3)
    assert len({(p, f) for p, f in zip(prompts, fold.tolist(), strict=True)}) == 37
    sizes = np.bincount([folds_of([f"p{n}" for n in range(37)], 5, seed=3)[n] for n in range(37)])
    assert sizes.max() - sizes.min() == 1
    assert (
        fold.tolist()
        == folds_of(prompts, 5, seed=3).tolist()
        != folds_of(prompts, 5, seed=4).tolist()
    )
    with pytest.raises(DataError, match="37 prompts"):
        folds_of(prompts, 20, seed=0)


def test_sections_tell_how_far_off_policy_pairs_are_and_too_long_ones_are_counted(
    base: Path, tmp_path: Path
) -> None:
    pairs = world(2)[0][:40]
    long = PreferencePair(
        id="long",
        prompt=make_prompt(user("tell me all of it ?")),
        chosen=(assistant("word1 " * 1200),),
        rejected=(assistant("word2"),),
    )
    with_long = [*pairs, LinedPair(line=41, prompt="long", pair=long)]
    s = settings(base, epochs=1.0)
    noise, policy = model_sections(with_long, s, out=tmp_path, train=Untrained())
    assert "1 pairs are too long for the model and were not scored" in noise.text
    chosen, rejected = policy.findings
    assert (chosen.kind, rejected.kind) == ("off_policy_chosen", "off_policy_rejected")
    assert chosen.n == 30
    levels = {row[0]: row[1] for row in policy.bars[0].rows}
    assert levels["own likeliest"] > levels["own sample"] > levels["chosen"]
    assert chosen.value == pytest.approx(levels["own sample"] - levels["chosen"])
    kept = next((tmp_path / "folds").glob("off-policy-*.json"))
    before = kept.stat().st_mtime_ns
    again = model_sections(with_long, s, out=tmp_path, train=Untrained(fails_at=1))
    assert again == [noise, policy]
    assert kept.stat().st_mtime_ns == before


def test_a_models_own_samples_are_not_off_policy(base: Path, tmp_path: Path) -> None:
    from preftune.inference.backend import load_generator
    from preftune.responses.generator import GenerateSettings, Request

    generator = load_generator(base, GenerateSettings(max_new_tokens=8, temperature=1.0))
    prompts = [lined.pair.prompt for lined in world(3)[0][:80]]
    drawn = generator.respond(
        [
            Request(response_id=f"r{n}", prompt=prompt, index=0, seed=n + 7)
            for n, prompt in enumerate(prompts)
        ]
    )
    pairs = [
        LinedPair(
            line=n,
            prompt=prompt.id,
            pair=PreferencePair(
                id=f"p{n}",
                prompt=prompt,
                chosen=response.messages,
                rejected=(assistant("word1 word2 word3 word4 word5 word6"),),
            ),
        )
        for n, (prompt, response) in enumerate(zip(prompts, drawn, strict=True))
        if text_of(response.messages)
    ]
    s = settings(base, epochs=0.1, prompts=80)
    _, policy = model_sections(pairs, s, out=tmp_path, train=Untrained())
    chosen = policy.findings[0]
    assert chosen.verdict == "ok"
    assert chosen.value == pytest.approx(0.0, abs=0.8)


def test_an_encoder_writes_nothing_and_says_so(base: Path, tmp_path: Path) -> None:
    texts = [text_of(lined.pair.chosen) for lined in world(0)[0]]
    encoder = tmp_path / "encoder"
    new_model(encoder, preset="encoder", texts=texts, vocab_size=90, seed=0, tokenizer="words")
    s = settings(encoder, epochs=0.5)
    _, policy = model_sections(world(4)[0][:24], s, out=tmp_path / "out", train=Untrained())
    assert not policy.findings
    assert "encoder" in policy.text
