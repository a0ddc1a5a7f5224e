"""What one wants to know of a model folder before using it."""

from dataclasses import dataclass
from pathlib import Path

from preftune.models.chat import Kind, load_chat
from preftune.models.fingerprint import fingerprint
from preftune.models.heads import is_reward_model, load_reward_model
from preftune.models.load import load_backbone, load_policy, read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The figures of one model; `template` is its whole Jinja text."""

    architecture: str
    kind: Kind
    is_reward_model: bool
    parameters: int
    trainable_parameters: int
    vocab_size: int
    max_length: int | None  # tokens
    end_tokens: tuple[str, ...]
    template: str
    template_hash: str
    fingerprint: str


def about(folder_or_id: str | Path) -> About:
    """Load a model and return its figures.

    Raises:
        ModelError: it cannot be loaded.
    """
    config, chat = read_config(folder_or_id), load_chat(folder_or_id)
    scores = is_reward_model(folder_or_id)
    load = (
        load_reward_model if scores else load_policy if config.kind == "decoder" else load_backbone
    )
    model = load(folder_or_id)
    return About(
        architecture=config.model_type,
        kind=config.kind,
        is_reward_model=scores,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        vocab_size=len(chat.tokenizer),
        max_length=chat.max_length,
        end_tokens=tuple(chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids))),
        template=chat.template,
        template_hash=chat.template_hash,
        fingerprint=fingerprint(model),
    )
