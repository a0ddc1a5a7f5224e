"""Loading and saving: whole folders in, nothing dangerous in, the same bits out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from preftune.errors import ModelError, SettingsError
from preftune.models.adapters import (
    adapter_dropout_only,
    adapter_off,
    add_lora,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from preftune.models.chat import load_chat
from preftune.models.fingerprint import fingerprint, model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.presets import PRESETS
from preftune.models.templates import FALLBACK
from preftune.types import assistant, make_prompt, user

TEXTS = ["can i put my teddy bear in the washer ? yes , you can .", "hello world"] * 3
IDS = torch.arange(3, 19).reshape(2, 8)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tiny(folder: Path, **how: object) -> Path:
    how = {"preset": "tiny", "vocab_size": 300, "seed": 0, "tokenizer": "bpe", **how}
    return new_model(folder, texts=TEXTS, **how)  # type: ignore[arg-type]  # checked inside


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "base")


def architectures() -> dict[str, Any]:
    torch.manual_seed(0)
    gpt2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL, intermediate_size=32)),
        "gpt2": GPT2LMHeadModel(gpt2),
    }


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_saved_model_loads_bit_equal_and_answers_the_same(name: str, tmp_path: Path) -> None:
    model = architectures()[name].eval()
    model.save_pretrained(str(tmp_path))
    again = load_policy(tmp_path)
    assert fingerprint(again) == fingerprint(model)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert not again.training


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("dora", [False, True])
def test_fresh_adapter_changes_nothing_and_comes_off(name: str, dora: bool, tmp_path: Path) -> None:
    architectures()[name].save_pretrained(str(tmp_path / "base"))
    plain = load_policy(tmp_path / "base")(IDS).logits
    model = add_lora(load_policy(tmp_path / "base"), LoraSettings(lora_rank=2, dora=dora), seed=0)
    assert torch.allclose(model(IDS).logits, plain, atol=1e-6)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(model(IDS).logits, plain, atol=1e-3)
    with adapter_off(model):
        assert torch.equal(model(IDS).logits, plain)


def trained_adapter(base: Path, folder: Path) -> tuple[Path, torch.Tensor]:
    model = add_lora(load_policy(base), LoraSettings(lora_rank=2), seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    save_policy(model, load_chat(base), folder)
    logits: torch.Tensor = model(IDS).logits
    return folder, logits


def test_adapter_folder_loads_as_a_policy_with_its_chat(base: Path, tmp_path: Path) -> None:
    folder, logits = trained_adapter(base, tmp_path / "adapter")
    model = load_policy(folder)
    assert torch.equal(model(IDS).logits, logits)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert load_chat(folder).template_hash == load_chat(base).template_hash


def test_merged_adapter_answers_as_base_with_adapter(base: Path, tmp_path: Path) -> None:
    folder, logits = trained_adapter(base, tmp_path / "adapter")
    merged = load_policy(merge_adapter(base, folder, tmp_path / "merged"))
    assert torch.allclose(merged(IDS).logits, logits, atol=1e-5)


def test_same_seed_gives_the_same_adapter_bytes(base: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = add_lora(load_policy(base), LoraSettings(lora_rank=2), seed=seed)
        save_adapter(model, tmp_path / name)
    a, b, c = (bytes_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a["adapter_model.safetensors"] != c["adapter_model.safetensors"]
    assert sorted(a) == ["adapter_config.json", "adapter_model.safetensors"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_dropout_of_the_adapter_alone_is_on(base: Path) -> None:
    model = add_lora(load_policy(base), LoraSettings(lora_rank=2, lora_dropout=0.5), seed=0)
    adapter_dropout_only(model)
    on = [
        name for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.training
    ]
    assert on
    assert all("lora_dropout" in name for name in on)


def test_adapter_mistakes_are_answered(base: Path, tmp_path: Path) -> None:
    model = load_policy(base)
    with pytest.raises(ModelError, match="no adapter to turn off"), adapter_off(model):
        pass
    with pytest.raises(ModelError, match="no adapter to save"):
        save_adapter(model, tmp_path / "a")
    with pytest.raises(ModelError, match="lora_rank is 0"):
        add_lora(model, LoraSettings(), seed=0)
    with pytest.raises(ModelError, match="Name layers that the model has"):
        add_lora(model, LoraSettings(lora_rank=2, lora_targets=("no_such_layer",)), seed=0)
    with pytest.raises(ModelError, match="no adapter_config"):
        load_adapter(model, tmp_path)
    adapted = add_lora(model, LoraSettings(lora_rank=2), seed=0)
    with pytest.raises(ModelError, match="has one already"):
        add_lora(adapted, LoraSettings(lora_rank=2), seed=0)


def test_adapter_whose_base_is_gone_is_named(base: Path, tmp_path: Path) -> None:
    folder, _ = trained_adapter(base, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="gone: no such folder"):
        load_policy(folder)


def test_one_changed_bit_changes_the_fingerprint(base: Path) -> None:
    model, chat = load_policy(base), load_chat(base)
    before, with_chat = fingerprint(model), model_fingerprint(model, chat)
    assert with_chat != before
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert fingerprint(model) != before
    assert model_fingerprint(model, chat) != with_chat


def test_other_template_changes_the_model_fingerprint(base: Path) -> None:
    model = load_policy(base)
    other = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    hashes = {model_fingerprint(model, load_chat(base, template=t)) for t in (None, other)}
    assert len(hashes) == 2


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "x.pkl"])
def test_pickled_weights_are_refused(base: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(ModelError, match=f"only {re.escape(name)}, which is a pickle"):
        load_policy(tmp_path)


def test_folder_without_weights_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(ModelError, match="no weights"):
        load_policy(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folders_own_is_refused(base: Path, tmp_path: Path, file: str) -> None:
    canary = tmp_path / "canary"
    for name, content in bytes_of(base).items():
        (tmp_path / name).write_bytes(content)
    code = f"open({str(canary)!r}, 'w')\n"
    (tmp_path / "modeling_x.py").write_text(code)
    raw = json.loads((tmp_path / file).read_text())
    raw["auto_map"] = {
        "AutoModelForCausalLM": "modeling_x.X",
        "AutoTokenizer": ["modeling_x.X", None],
    }
    (tmp_path / file).write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="Python code of its own"):
        load_chat(tmp_path)
    if file == "config.json":
        with pytest.raises(ModelError, match="Python code of its own"):
            load_policy(tmp_path)
    assert not canary.exists()


def test_missing_weights_are_named_not_made_up(base: Path, tmp_path: Path) -> None:
    for name, content in bytes_of(base).items():
        (tmp_path / name).write_bytes(content)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"1 weights are missing, the first is model\.layers\.1\.mlp"
    ):
        load_policy(tmp_path)


def test_damaged_weights_are_one_line(base: Path, tmp_path: Path) -> None:
    for name, content in bytes_of(base).items():
        (tmp_path / name).write_bytes(content[:1000])
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(ModelError) as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        load_chat(tmp_path)


def test_tokenizer_without_a_template_gets_the_fallback(base: Path, tmp_path: Path) -> None:
    for name, content in bytes_of(base).items():
        if name != "chat_template.jinja":
            (tmp_path / name).write_bytes(content)
    chat = load_chat(tmp_path)
    assert chat.template == FALLBACK
    text = chat.tokenizer.decode(chat.prompt_ids(make_prompt(user("hello"))))
    assert text == "User:\nhello<|end|>\nAssistant:\n"
    chat.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == FALLBACK


def test_places_that_are_no_model_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is a file"):
        load_chat(base / "config.json")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_policy(tmp_path)
    with pytest.raises(ModelError, match="Give a Hugging Face model folder or hub id"):
        load_policy("nobody/has-this-model")


@pytest.mark.parametrize(("preset", "body"), [(n, p.body_parameters) for n, p in PRESETS.items()])
def test_preset_has_the_parameters_it_says(preset: str, body: int, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", preset=preset)
    sizes = {k: v.numel() for k, v in load_file(folder / "model.safetensors").items()}
    vocabulary = len(load_chat(folder).tokenizer)
    assert sum(sizes.values()) == body + vocabulary * PRESETS[preset].width


def test_tiny_is_the_size_the_care_desk_was_measured_with() -> None:
    # 3 layers x (4*128*128 + 3*128*320 + 2*128) + 128, and 203 words x 128: 592,128 in all
    assert PRESETS["tiny"].body_parameters + 203 * 128 == 592_128


@pytest.mark.parametrize("tokenizer", ["bpe", "words"])
def test_same_seed_makes_the_same_bytes(tmp_path: Path, tokenizer: str) -> None:
    a, b, c = (
        bytes_of(tiny(tmp_path / name, seed=seed, tokenizer=tokenizer))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]
    assert a["tokenizer.json"] == c["tokenizer.json"]


def test_new_model_goes_there_and_back(base: Path) -> None:
    chat = load_chat(base)
    assert chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)) == ["<|end|>"]
    assert (chat.max_length, chat.pad_id) == (1024, 1)
    sequence = chat.encode(make_prompt(user("größe?\n🧸")), (assistant(" <|end|>\tja 🧸 "),))
    assert chat.decode(sequence.response_ids)[0].content == " <|end|>\tja 🧸 "


def test_words_tokenizer_holds_whole_words(tmp_path: Path) -> None:
    chat = load_chat(tiny(tmp_path / "m", tokenizer="words"))
    ids = chat.encode(make_prompt(user("can i")), (assistant("yes , zebra"),)).response_ids
    assert chat.tokenizer.convert_ids_to_tokens(list(ids)) == ["yes", ",", "<|unk|>", "<|end|>"]


def test_new_model_mistakes_are_answered(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Known: tiny, small"):
        tiny(tmp_path / "m", preset="huge")
    with pytest.raises(SettingsError, match="Known: bpe, words"):
        tiny(tmp_path / "m", tokenizer="letters")
    with pytest.raises(SettingsError, match="Give at least 263"):
        tiny(tmp_path / "m", vocab_size=262)
    with pytest.raises(ModelError, match="is there already"):
        tiny(base)
    with pytest.raises(ModelError, match="no word in them"):
        new_model(
            tmp_path / "m", preset="tiny", texts=[" "], vocab_size=50, seed=0, tokenizer="words"
        )
    assert not (tmp_path / "m").exists()


def test_base_random_state_is_left_alone(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    tiny(tmp_path / "m")
    add_lora(load_policy(base), LoraSettings(lora_rank=2), seed=0)
    assert torch.equal(torch.rand(1), expected)
