"""What a value model learns: to foretell the return of each own token."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def value_loss(
    *,
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    clip_eps: float,
) -> Float[Tensor, "B T"]:
    """Return the clipped squared error of each token: half of the larger of two squares.

    (value - return)^2, and the same for the value held to within clip_eps of its old one: a value
    that has moved by more towards its return pulls no further. At value == old value it is
    (value - return)^2 / 2.

    Args:
        values: of the value model as it is.
        old_values: of the value model when the responses were drawn; carries no gradient.
        returns: advantage + old value, before whitening; carries no gradient.
        clip_eps: how far a value may move in one rollout batch, > 0; 0.2 is usual, `math.inf` is
            the plain squared error.

    Raises:
        ValueError: clip_eps is not > 0.

    Source: Schulman et al. 2017 (PPO), arXiv:1707.06347, in its authors' code.
    """
    if not clip_eps > 0:
        raise ValueError(f"clip_eps is {clip_eps}. Use a number > 0, for example 0.2.")
    held = values.clamp(old_values - clip_eps, old_values + clip_eps)
    return 0.5 * torch.maximum((values - returns).square(), (held - returns).square())


def explained_variance(
    *,
    values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """Return 1 - Var(returns - values) / Var(returns) over own tokens, without a gradient.

    1 is a perfect value model, 0 one that foretells nothing, below 0 one that does harm. It is not
    a number (nan) where the returns do not vary.

    Args:
        values: of each token.
        returns: of each token.
        mask: which tokens are the model's own.
    """
    target, error = returns[mask].detach(), (returns - values)[mask].detach()
    if len(target) < 2:
        return target.new_tensor(torch.nan)
    spread = target.var()
    return torch.where(spread > 0, 1 - error.var() / spread, torch.nan)
