"""Fingerprints: two models with one fingerprint answer alike; one changed bit changes it."""

import hashlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from preftune.models.chat import Chat


def fingerprint(model: Any) -> str:
    """Return SHA-256 (64 hex digits) over name, dtype, shape and bytes of every named tensor.

    Buffers that are not saved with the model don't count; the order of the tensors doesn't either.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_fingerprint(model: Any, chat: "Chat") -> str:
    """Return SHA-256 over the weights and the chat template: what decides an answer's log-prob."""
    return hashlib.sha256(f"{fingerprint(model)}|{chat.template_hash}".encode()).hexdigest()
