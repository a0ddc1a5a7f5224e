"""Load and save models: Hugging Face folders or hub ids, safetensors only, no strangers' code."""

import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preftune.errors import ModelError
from preftune.files import read_json, write_json
from preftune.wire.model_files import REWARD_FILE

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
ADAPTER_CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What one must know of a model before loading it."""

    kind: Literal["decoder", "encoder"]
    model_type: str
    max_length: int | None  # tokens; None: the config doesn't say
    base: str | None = None  # of a PEFT adapter folder: where its base model is


def read_config(folder_or_id: str | Path, *, trust_remote_code: bool = False) -> ModelConfig:
    """Return what the config of a model folder, adapter folder or hub id says.

    Raises:
        ModelError: nothing there, or a config that asks to run Python code of its own.
    """
    base = adapter_base(folder_or_id)
    if base is not None:
        config = read_config(base, trust_remote_code=trust_remote_code)
        return ModelConfig(
            kind=config.kind, model_type=config.model_type, max_length=config.max_length, base=base
        )
    from transformers import PretrainedConfig

    _must_be_folder(folder_or_id)
    try:
        raw, _ = PretrainedConfig.get_config_dict(str(folder_or_id))
    except (OSError, ValueError) as error:
        raise _unusable(folder_or_id, error) from error
    _refuse_remote_code(folder_or_id, raw, trust_remote_code)
    return ModelConfig(
        kind="encoder" if _is_encoder(raw) else "decoder",
        model_type=str(raw.get("model_type", "")),
        max_length=max_length(raw),
    )


def load_policy(
    folder_or_id: str | Path,
    *,
    trust_remote_code: bool = False,
    dtype: Dtype = "float32",
    bits: int = 32,
) -> Any:
    """Return a causal language model, in eval mode, dropout as its config says.

    A PEFT adapter folder gives its base model with the adapter on top (a `PeftModel`, trainable).
    With `bits` 4 the linear layers are kept in 4 bits and cannot be trained (`quantised.py`).

    Raises:
        MissingExtraError: 4 bits without the library that they need.
        ModelError: nothing there, an encoder, weights that are not safetensors or not complete,
            or code of the folder's own that was not asked for.
    """
    config = read_config(folder_or_id, trust_remote_code=trust_remote_code)
    if config.kind == "encoder":
        raise ModelError(
            f"{folder_or_id}: {config.model_type} is an encoder and writes no text. "
            "Use it for a reward model, or give a causal language model."
        )
    if (Path(folder_or_id) / REWARD_FILE).is_file():
        raise ModelError(
            f"{folder_or_id}: is a reward model, it scores and writes no text. Give a policy."
        )
    from transformers import AutoModelForCausalLM

    return load_weights(
        AutoModelForCausalLM,
        folder_or_id,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        bits=bits,
    )


def load_backbone(
    folder_or_id: str | Path,
    *,
    trust_remote_code: bool = False,
    dtype: Dtype = "float32",
    bits: int = 32,
) -> Any:
    """Return a model without its output layer, for a head of ours; the rest as `load_policy`."""
    from transformers import AutoModel

    return load_weights(
        AutoModel, folder_or_id, trust_remote_code=trust_remote_code, dtype=dtype, bits=bits
    )


def load_weights(
    auto_class: Any,
    folder_or_id: str | Path,
    *,
    trust_remote_code: bool,
    dtype: Dtype,
    bits: int = 32,
) -> Any:
    """Return the model of an auto class, every weight of it read from safetensors."""
    base = adapter_base(folder_or_id)
    if base is not None:
        from preftune.models.adapters import load_adapter

        model = load_weights(
            auto_class, base, trust_remote_code=trust_remote_code, dtype=dtype, bits=bits
        )
        return load_adapter(model, folder_or_id)
    if Path(folder_or_id).is_dir():
        folder_or_id = Path(folder_or_id).resolve()  # an adapter made on it will name it
    refuse_pickles(folder_or_id)
    read_config(folder_or_id, trust_remote_code=trust_remote_code)
    packed = _packing(bits)
    try:
        with quiet():
            model, info = auto_class.from_pretrained(
                str(folder_or_id),
                dtype=dtype,
                use_safetensors=True,
                attn_implementation="sdpa",
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **_no_pooler(auto_class, folder_or_id, trust_remote_code),
                **packed,
            )
    except Exception as error:  # a damaged file raises safetensors' own error, and many others
        raise _unusable(folder_or_id, error) from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise ModelError(
            f"{folder_or_id}: {len(names)} weights are missing, the first is {names[0]}. "
            "Give a folder with all weights of this architecture."
        )
    refuse_not_finite(model, folder_or_id, packed=bool(packed))
    return model.eval()


def _packing(bits: int) -> dict[str, Any]:
    """Return what transformers must be told about the bits of the weights."""
    if bits != 4:
        return {}
    from preftune.models.quantised import four_bits

    return four_bits()


def refuse_not_finite(model: Any, folder_or_id: str | Path, *, packed: bool) -> None:
    """Refuse a model that holds NaN or infinity.

    Raises:
        ModelError: names the first such weight.
    """
    weights = model.named_parameters()
    bad = next((name for name, weight in weights if not bool(weight.isfinite().all())), None)
    if packed and bad is None:
        from preftune.models.quantised import first_not_finite

        bad = first_not_finite(model)
    if bad:
        raise ModelError(
            f"{folder_or_id}: {bad} holds NaN or infinity. Use a checkpoint from before that."
        )


def save_policy(model: Any, chat: Any, folder: Path | str) -> Path:
    """Write a model (of an adapted one: its adapter) and its chat into a folder.

    `files.atomic_folder` around it makes the folder whole or absent.
    """
    save_weights(model, folder)
    chat.save(folder)
    return Path(folder)


def save_weights(model: Any, folder: Path | str) -> Path:
    """Write config and weights as Hugging Face and PEFT do, safetensors only."""
    folder = Path(folder)
    adapters = getattr(model, "peft_config", {})
    only = {"selected_adapters": ["default"]} if "default" in adapters else {}  # nobody else's
    with quiet():
        model.save_pretrained(str(folder), **only)
    if adapters:
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's, with every field to be filled in
        config = read_json(folder / ADAPTER_CONFIG)
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # PEFT keeps a set: the order would change every time
        write_json(folder / ADAPTER_CONFIG, config)
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and PEFT's bars, notes and deprecations of their own off the terminal."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def load_tokenizer(folder_or_id: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a model folder, adapter folder (else of its base) or hub id.

    Raises:
        ModelError: none there, remote code, or one that is not backed by the tokenizers library.
    """
    base = adapter_base(folder_or_id)
    if base is not None and not (Path(folder_or_id) / "tokenizer_config.json").exists():
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        raw = get_tokenizer_config(str(folder_or_id))
        _refuse_remote_code(folder_or_id, raw, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder_or_id), trust_remote_code=trust_remote_code
        )
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise _unusable(folder_or_id, error) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{folder_or_id}: {type(tokenizer).__name__} is not a fast tokenizer. "
            "Convert it, so that the folder has a tokenizer.json."
        )
    return tokenizer


def adapter_base(folder_or_id: str | Path) -> str | None:
    """Return where the base model of a PEFT adapter folder is; None for anything else.

    Raises:
        ModelError: an adapter config without its base, or whose base is not there.
    """
    file = Path(folder_or_id) / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file}: {error}. Give a PEFT adapter folder.") from error
    if not base:
        raise ModelError(f"{file}: names no base model. Write base_model_name_or_path into it.")
    return str(base)


def refuse_pickles(folder_or_id: str | Path) -> None:
    """Refuse a local folder whose weights are pickles: loading one runs whatever it holds.

    Raises:
        ModelError: with the file's name.
    """
    folder = Path(folder_or_id)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    found = f"only {pickles[0]}, which is a pickle and can run code" if pickles else "no weights"
    raise ModelError(f"{folder}: {found}. Give a folder with model.safetensors.")


def _must_be_folder(folder_or_id: str | Path) -> None:
    folder = Path(folder_or_id)
    if folder.is_file():
        raise ModelError(f"{folder}: is a file. Give the folder of the model.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json. Give a Hugging Face model folder.")
    looks_local = folder.is_absolute() or str(folder_or_id).startswith((".", "~"))
    if not folder.exists() and (looks_local or len(folder.parts) > 2):
        raise ModelError(f"{folder}: no such folder. Give a model folder or a hub id.")


def _refuse_remote_code(folder: str | Path, raw: dict[str, Any], trusted: bool) -> None:
    if raw.get("auto_map") and not trusted:
        raise ModelError(
            f"{folder}: its config wants to run Python code of its own (auto_map). Read that code; "
            "then either take auto_map out, or ask for trust_remote_code."
        )


def _is_encoder(raw: dict[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    names = raw.get("architectures") or [""]
    writes = raw.get("is_decoder") or raw.get("is_encoder_decoder") or "ForCausalLM" in names[0]
    return raw.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not writes


def max_length(raw: dict[str, Any]) -> int | None:
    """Return how many tokens a model reads by its config, None when it doesn't say."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(raw.get(name), int) and raw[name] > 0:
            # RoBERTa's kin count positions from after the padding id
            shift = raw.get("pad_token_id", 1) + 1 if "roberta" in raw.get("model_type", "") else 0
            return int(raw[name]) - shift
    return None


def _no_pooler(auto_class: Any, folder: str | Path, trusted: bool) -> dict[str, bool]:
    """Leave out the pooling layer of BERT's kin: we read the first token's hidden state itself."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted)
    try:
        model_class = auto_class._model_mapping[type(config)]
    except KeyError:
        return {}
    takes = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


def _unusable(folder_or_id: str | Path, error: Exception) -> ModelError:
    what = " ".join(str(error).split())[:300]
    return ModelError(f"{folder_or_id}: {what}. Give a Hugging Face model folder or hub id.")
