"""Adapters: LoRA and DoRA through PEFT; with the adapter off the same weights are the reference."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from preftune.errors import ModelError
from preftune.files import atomic_folder, read_json
from preftune.models.chat import load_chat
from preftune.models.load import load_policy, quiet, refuse_pickles, save_policy, save_weights
from preftune.models.lora import LoraSettings


def add_lora(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Return the model as a `PeftModel` with a fresh adapter; only the adapter is trainable.

    The fresh adapter changes no output. The same seed gives the same adapter; the caller's random
    state is left alone.

    Raises:
        ModelError: rank 0, a model that has an adapter already, or a target layer it doesn't have.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers.pytorch_utils import Conv1D

    if settings.lora_rank == 0:
        raise ModelError("adapter: lora_rank is 0. Give a rank of 1 or more.")
    if isinstance(model, PeftModel):
        raise ModelError("adapter: the model has one already. Merge it first, or train it further.")
    named = settings.lora_targets
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if named == ("all-linear",) else list(named),
        use_dora=settings.dora,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
    )
    try:
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"adapter: {error}. Name layers that the model has.") from error


def adapter_dropout_only(model: Any) -> None:
    """Put the model in eval mode but for the dropout of its adapters.

    Direct methods compare a policy with its reference, so the base's own dropout stays off.
    """
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name.split("."):
            module.train()


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """Yield the model with its adapter off: the frozen reference in the same weights.

    Raises:
        ModelError: the model has no adapter; without one it would be its own reference, unfrozen.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ModelError(
            "reference: the model has no adapter to turn off. Use a frozen copy of it."
        )
    with model.disable_adapter():
        yield model


def save_adapter(model: Any, folder: Path | str) -> Path:
    """Write the adapter alone in PEFT's format (safetensors).

    Raises:
        ModelError: the model has no adapter.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ModelError(f"{folder}: the model has no adapter to save. Save the whole model.")
    return save_weights(model, folder)


def load_adapter(
    base: Any, folder: Path | str, *, trainable: bool = True, name: str = "default"
) -> Any:
    """Return the base model with the adapter of a PEFT folder on top, in eval mode.

    Raises:
        ModelError: no adapter there, one that is a pickle, or one made for another model.
    """
    from peft import PeftModel

    if not (Path(folder) / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: no adapter_config.json. Give a PEFT adapter folder.")
    refuse_pickles(folder)
    with _adapter_errors(folder), quiet():
        model = PeftModel.from_pretrained(
            base, str(folder), adapter_name=name, is_trainable=trainable
        )
    return model.eval()


def load_adapters(base: Any, folders: Mapping[str, Path | str]) -> Any:
    """Return one base with several adapters, the first one on; `use_adapter` changes it.

    Raises:
        ModelError: no adapter named, or one that is not made for this base.
    """
    names = list(folders)
    if not names:
        raise ModelError("adapters: none named. Give a name and a folder for each.")
    model = load_adapter(base, folders[names[0]], trainable=False, name=names[0])
    for name in names[1:]:
        refuse_pickles(folders[name])
        with _adapter_errors(folders[name]), quiet():
            model.load_adapter(str(folders[name]), adapter_name=name)
    return model.eval()


def use_adapter(model: Any, name: str) -> None:
    """Switch to another of the adapters on a base.

    Raises:
        ModelError: there is none of this name.
    """
    if name not in model.peft_config:
        raise ModelError(f"adapter {name!r}: unknown. There are: {', '.join(model.peft_config)}.")
    model.set_adapter(name)


@contextmanager
def _adapter_errors(folder: Path | str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: {what}. Give the adapter's own base model.") from error


def merge_adapter(base: Path | str, adapter: Path | str, out: Path | str) -> Path:
    """Write a whole model folder: the base with the adapter added into its weights.

    An adapter that was trained over 4 bits is added into the base as it was before: the numbers
    differ a little from those it was trained with.

    Raises:
        ModelError: the base is kept in fewer bits; merging would have to make whole numbers of
            them first, and then it would no longer be that base.
    """
    if "quantization_config" in read_json(Path(base) / "config.json"):
        raise ModelError(
            f"{base}: its weights are quantised, and merging would have to dequantise them. "
            "Give the base as it was before."
        )
    model = load_adapter(load_policy(base), adapter, trainable=False)
    has_chat = (Path(adapter) / "tokenizer_config.json").is_file()
    chat = load_chat(adapter if has_chat else base)
    with atomic_folder(Path(out)) as temporary:
        save_policy(model.merge_and_unload(), chat, temporary)
    return Path(out)
