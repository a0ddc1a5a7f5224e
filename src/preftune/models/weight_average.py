"""One reward model from several: the average of their weights scores like their ensemble, once."""

from collections.abc import Sequence
from pathlib import Path

import torch

from preftune.errors import ModelError
from preftune.files import atomic_folder, read_json
from preftune.models.adapters import load_adapters
from preftune.models.chat import load_chat
from preftune.models.heads import RewardModel, load_reward_model, save_reward_model
from preftune.models.load import ADAPTER_CONFIG, adapter_base, load_backbone, quiet
from preftune.models.reward_card import STARTED_FROM, RewardCard
from preftune.models.reward_set import base_identity, reward_folders, short_name
from preftune.models.same_tokens import same_tokens
from preftune.wire.model_files import REWARD_FILE


def average_reward_models(folders: Sequence[Path | str], out: Path | str) -> Path:
    """Write the reward model whose weights are the mean of those of several, and return `out`.

    Whole models are averaged number by number in fp64. Of adapters the updates are averaged, which
    is exact at the sum of their ranks; the base stays. Heads are averaged as well. The scores are
    raw afterwards: they must be normalised before they can be combined or clipped.

    Raises:
        ModelError: fewer than two models, or models of different bases, kinds, tokens or shapes.

    Source: Rame et al. 2024, arXiv:2401.12187 (weight-averaged reward models).
    """
    paths = reward_folders(folders)
    if Path(out).exists():
        raise ModelError(f"{out}: is there already. Give a new folder.")
    _check_alike(paths)
    base = adapter_base(paths[0])
    model = _of_whole_models(paths) if base is None else _of_adapters(paths, base)
    model.card = RewardCard()
    model.set_normalisation(0.0, 1.0)
    about = {"averaged_from": ", ".join(map(short_name, paths))}
    with atomic_folder(Path(out)) as writing:
        save_reward_model(model, load_chat(paths[0]), writing, about=about)
    return Path(out)


def _of_whole_models(paths: Sequence[Path]) -> RewardModel:
    """Return the mean of whole models, one of them in memory at a time beside the sum."""
    model = load_reward_model(paths[0])
    sums = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for path in paths[1:]:
        other = load_reward_model(path).state_dict()
        shapes = {name: tensor.shape for name, tensor in other.items()}
        if shapes != {name: tensor.shape for name, tensor in sums.items()}:
            raise ModelError(f"{path}: its weights have other names or shapes than {paths[0]}'s.")
        for name, tensor in other.items():
            sums[name] += tensor.double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(sums[name] / len(paths))
    return model


def _of_adapters(paths: Sequence[Path], base: str) -> RewardModel:
    """Return the base under one adapter whose update is the mean of theirs."""
    names = [f"reward{number}" for number in range(len(paths))]
    backbone = load_adapters(load_backbone(base), dict(zip(names, paths, strict=True)))
    weights = [1 / len(paths)] * len(paths)
    try:
        with quiet():
            backbone.add_weighted_adapter(names, weights, "default", combination_type="cat")
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"{paths[0]}: {error}. Average adapters of one shape.") from error
    backbone.set_adapter("default")
    for name in names:
        backbone.delete_adapter(name)
    model = load_reward_model(paths[0], backbone=backbone)
    with torch.no_grad():
        heads = [load_reward_model(path, backbone=backbone).head.weight for path in paths]
        model.head.weight.copy_(torch.stack([head.double() for head in heads]).mean(0))
    return model.eval()


def _check_alike(paths: Sequence[Path]) -> None:
    """Refuse models whose weights mean nothing to each other."""
    if len(paths) < 2:
        raise ModelError(f"{paths[0]}: one model has no average. Give two or more.")
    first, chat = _kin_of(paths[0]), load_chat(paths[0])
    for path in paths[1:]:
        for (what, ours), theirs in zip(first.items(), _kin_of(path).values(), strict=True):
            if ours != theirs:
                raise ModelError(
                    f"{path}: {what} {theirs}, and {paths[0]}: {what} {ours}. Only models "
                    "that were trained from the same weights, in the same way, can be averaged."
                )
        if problem := same_tokens(chat, load_chat(path)):
            raise ModelError(f"{path}: {problem}. Average models of one tokenizer and template.")


def _kin_of(path: Path) -> dict[str, object]:
    """Return what must be equal in models that are averaged."""
    said = read_json(path / REWARD_FILE)
    base = adapter_base(path)
    config = read_json(path / ADAPTER_CONFIG) if base is not None else {}
    if config.get("use_dora") or config.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"{path}: only plain LoRA adapters are averaged. Merge it first.")
    return {
        "kind": said["kind"],
        "base": None if base is None else base_identity(base),
        "start": said.get(STARTED_FROM),
        "adapted layers": sorted(config.get("target_modules", [])),
    }
