"""A base whose linear layers are kept in 4 bits, under an adapter that trains: QLoRA.

NF4 with double quantisation takes about 4.13 bits a weight. Embeddings, norms and the output layer
stay as they are. Only forward and backward through the base are done, never an update of it.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

from typing import Any

import torch
from torch import nn

from preftune.errors import MissingExtraError, ModelError

BLOCK, SECOND_BLOCK = 64, 256  # weights that share a scale; scales that share a scale of scales
BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * SECOND_BLOCK)  # of a weight: 4 bits, and its share of scales


def four_bits() -> dict[str, Any]:
    """Return what makes transformers load a model in 4 bits.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ModelError: it is, and does not work on this machine.
    """
    from transformers import BitsAndBytesConfig

    _try()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,  # until `compute_in` says otherwise
    )
    return {"quantization_config": config}


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the layers in 4 bits multiply in a type; a model without any stays as it is."""
    for module in _layers(model):
        module.compute_dtype = dtype


def weights_of(model: nn.Module) -> int:
    """Return how many weights lie in 4 bits."""
    return sum(module.in_features * module.out_features for module in _layers(model))


def bytes_of(model: nn.Module) -> int:
    """Return the bytes that these weights take, all their scales included."""
    total = 0
    for module in _layers(model):
        state = module.weight.quant_state
        scales = (state.absmax, state.state2.absmax, state.offset)
        total += module.weight.nbytes + sum(scale.nbytes for scale in scales)
    return total


def first_not_finite(model: nn.Module) -> str | None:
    """Return the name of the first layer whose weights in 4 bits are NaN or infinite."""
    for name, module in model.named_modules():
        if _is_quantised(module) and not bool(whole(module).isfinite().all()):
            return f"{name}.weight"
    return None


def whole(module: Any) -> torch.Tensor:
    """Return the weight of a layer as the numbers that its 4 bits stand for."""
    from bitsandbytes.functional import dequantize_4bit

    found: torch.Tensor = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return found


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if _is_quantised(module)]


def _is_quantised(module: nn.Module) -> bool:
    """Whether a layer is in 4 bits; a wrapper of PEFT shows what is inside and is none itself."""
    return hasattr(module, "compute_dtype") and hasattr(module, "quant_state")


def _try() -> None:
    """Pack 64 numbers into 4 bits and multiply with them."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quant") from error
    try:
        packed, state = bitsandbytes.functional.quantize_4bit(torch.eye(BLOCK), quant_type="nf4")
        found = bitsandbytes.matmul_4bit(torch.ones(1, BLOCK), packed.t(), quant_state=state)
    except Exception as error:  # a library of compiled parts fails in many ways
        raise _broken(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not torch.equal(found, torch.ones(1, BLOCK)):
        raise _broken("it computes wrong numbers")


def _broken(problem: str) -> ModelError:
    return ModelError(f"base_bits 4: bitsandbytes fails here: {problem}. Use --base-bits 32.")
