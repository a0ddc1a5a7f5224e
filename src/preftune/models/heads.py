"""Reward models: a backbone and one linear output, read at the token that has seen everything."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preftune.errors import ModelError
from preftune.files import write_json
from preftune.losses.pairwise import initial_nu, initial_theta
from preftune.models.adapters import add_lora
from preftune.models.chat import Chat
from preftune.models.load import load_backbone, max_length, read_config, save_policy
from preftune.models.lora import LoraSettings
from preftune.models.reward_card import RewardCard, card_of
from preftune.models.tokens import TokenSequence
from preftune.wire.model_files import REWARD_FILE

HEAD_FILE = "reward_head.safetensors"
SMALLEST_STD = 1e-8


class RewardModel(nn.Module):
    """Scores a response to a prompt; higher is better.

    A decoder is read at the last own token, an encoder at its first ([CLS]). Scores are
    `(raw - mean) / std`; a fresh model has mean 0 and std 1, so that its scores are raw. `card`
    says where these two come from, and what a difference of scores is worth.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Any, head: nn.Linear, *, kind: Literal["decoder", "encoder"]
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.kind = backbone, head, kind
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.card = RewardCard()

    @property
    def normalised(self) -> bool:
        """Whether scores are in standard deviations from the mean of a reference set."""
        return self.card.normalisation is not None or (self.mean.item(), self.std.item()) != (0, 1)

    def forward(self, sequences: Sequence[TokenSequence]) -> Float[Tensor, " B"]:
        """Return the normalised score of each sequence.

        Raises:
            ModelError: a sequence without own tokens, or longer than the model can read.
        """
        lengths = [len(sequence) for sequence in sequences]
        self.check(sequences)
        device = self.head.weight.device
        pad = getattr(self.backbone.config, "pad_token_id", None) or 0
        ids = torch.full((len(sequences), max(lengths)), int(pad))
        mask = torch.zeros_like(ids)
        segments = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence)] = 1
            segments[row, len(sequence.prompt_ids) : len(sequence)] = 1
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if self.kind == "encoder" and getattr(self.backbone.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = segments.to(device)
        if self.kind == "decoder":
            inputs["use_cache"] = False
        hidden = self.backbone(**inputs).last_hidden_state
        places = [_read_at(sequence, self.kind) for sequence in sequences]
        rows = torch.arange(len(sequences), device=device)
        return self.read(hidden[rows, torch.tensor(places, device=device)])

    def read(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return the normalised score of each last hidden state at the token that is read."""
        raw = self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()
        scores: Tensor = (raw - self.mean) / self.std
        return scores

    def set_normalisation(self, mean: float, std: float) -> None:
        """Set the mean and population std of the raw scores on a fixed reference set."""
        self.mean.fill_(mean)
        self.std.fill_(max(std, SMALLEST_STD))

    def log_odds(self, gap: float) -> float:
        """Return by how many nats a response is better whose score is `gap` higher.

        Its sigmoid is the probability that raters prefer it; calibrated where the model is.
        """
        slope = 1.0 if self.card.calibration is None else self.card.calibration.slope
        return gap * self.std.item() * slope

    def check(self, sequences: Sequence[TokenSequence]) -> None:
        """Refuse what cannot be scored.

        Raises:
            ModelError: a sequence without own tokens, or longer than the model can read.
        """
        longest = max_length(self.backbone.config.to_dict())
        for i, sequence in enumerate(sequences):
            if not any(sequence.own):
                raise ModelError(f"sequence {i}: no own token to score at. Give a whole response.")
            if longest and len(sequence) > longest:
                raise ModelError(
                    f"sequence {i}: {len(sequence)} tokens, the model reads {longest}. "
                    "Leave it out or shorten it; nothing is cut on its own."
                )


class TieParameter(nn.Module):
    """How common ties are, learnt: Davidson's nu >= 0, or Rao and Kupper's theta >= 1.

    It starts where equal scores tie as often as the raters did. A lone number, so the optimiser
    never decays it. It belongs to raw scores, those before normalisation.
    """

    def __init__(self, model: Literal["davidson", "rao-kupper"], *, tie_share: float) -> None:
        super().__init__()
        self.name = "nu" if model == "davidson" else "theta"
        self.least = 0.0 if model == "davidson" else 1.0
        start = initial_nu(tie_share) if model == "davidson" else initial_theta(tie_share)
        self.raw = nn.Parameter(torch.tensor(_before_softplus(start - self.least)))

    def forward(self) -> Float[Tensor, ""]:
        """Return nu or theta."""
        return self.least + F.softplus(self.raw)


def new_reward_model(
    base: str | Path,
    *,
    seed: int,
    lora: LoraSettings | None = None,
    trust_remote_code: bool = False,
) -> RewardModel:
    """Return the backbone of a model with a fresh head: no bias, std 1 / sqrt(width + 1).

    With `lora` of rank 1 or more the backbone is frozen under a fresh adapter; the head trains.

    Source: Huang et al. 2024, arXiv:2403.17031 (the N+ implementation details of RLHF).
    """
    config = read_config(base, trust_remote_code=trust_remote_code)
    bits = lora.base_bits if lora is not None else 32
    backbone = load_backbone(base, trust_remote_code=trust_remote_code, bits=bits)
    head = _empty_head(backbone)
    generator = torch.Generator().manual_seed(seed)
    width = head.in_features
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)
    if lora is not None and lora.lora_rank:
        backbone = add_lora(backbone, lora, seed=seed)
    return RewardModel(backbone, head, kind=config.kind).eval()


def save_reward_model(
    model: RewardModel,
    chat: Chat,
    folder: str | Path,
    *,
    about: Mapping[str, str | float] | None = None,
) -> Path:
    """Write backbone (or its adapter), head, normalisation and chat; loads again bit-equal.

    `files.atomic_folder` around it makes the folder whole or absent.

    Args:
        model: the reward model.
        chat: its tokenizer and template.
        folder: where to.
        about: what a reader should know of it, such as its objective and tie parameter; kept in
            `reward_model.json`.
    """
    save_policy(model.backbone, chat, folder)
    save_head(model, folder, about=about)
    return Path(folder)


def save_head(
    model: RewardModel, folder: str | Path, *, about: Mapping[str, str | float] | None = None
) -> None:
    """Write head, normalisation and what is known of the scores; the backbone stays as it is."""
    from safetensors.torch import save_file

    tensors = {"head.weight": model.head.weight.detach(), "mean": model.mean, "std": model.std}
    save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, Path(folder) / HEAD_FILE)
    said = {"kind": model.kind, "format": 1, **(about or {}), **model.card.about()}
    write_json(Path(folder) / REWARD_FILE, said)


def load_reward_model(
    folder: str | Path, *, trust_remote_code: bool = False, backbone: Any = None
) -> RewardModel:
    """Return a reward model from its folder, in eval mode.

    Args:
        folder: where `save_reward_model` wrote it.
        trust_remote_code: allow the folder's own Python code.
        backbone: the folder's backbone where it is in memory already; None loads it.

    Raises:
        ModelError: not a reward model's folder, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about, saved = Path(folder) / REWARD_FILE, Path(folder) / HEAD_FILE
    if not about.is_file() or not saved.is_file():
        raise ModelError(
            f"{folder}: not a reward model (no {HEAD_FILE}). Train one, or give its folder."
        )
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
        tensors = load_file(saved)
        if backbone is None:
            backbone = load_backbone(folder, trust_remote_code=trust_remote_code)
        head = _empty_head(backbone)
        model = RewardModel(backbone, head, kind=said["kind"])
        model.card = card_of(said, where=folder)
        with torch.no_grad():
            head.weight.copy_(tensors["head.weight"])
            model.mean.copy_(tensors["mean"])
            model.std.copy_(tensors["std"])
    except ModelError:
        raise
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: damaged: {error}. Save the reward model again.") from error
    return model.eval()


def is_reward_model(folder: str | Path) -> bool:
    """Whether a folder holds a reward model of ours."""
    return (Path(folder) / REWARD_FILE).is_file()


def _empty_head(backbone: Any) -> nn.Linear:
    return nn.Linear(int(backbone.config.hidden_size), 1, bias=False)


def _before_softplus(value: float) -> float:
    """Return what softplus takes to this value, > 0: log(e^value - 1), however large it is."""
    return value + math.log(-math.expm1(-value))


def _read_at(sequence: TokenSequence, kind: Literal["decoder", "encoder"]) -> int:
    if kind == "encoder":
        return 0
    return max(i for i, own in enumerate(sequence.own) if own)
