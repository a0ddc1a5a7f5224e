"""Who takes part in policy optimisation, and in which weights each of them lives.

With an adapter (`lora_rank`), policy, reference, value and a reward model that was trained as an
adapter of the same base are one copy of the weights: the reference is the base with all adapters
off, the others are an adapter each, with a head where they give numbers. Without one, each is a
model of its own.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.engine.core import Core, spread
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.precision import numbers, resolve
from preftune.engine.settings import EngineSettings
from preftune.models.adapters import adapter_off, add_lora
from preftune.models.lora import LoraSettings
from preftune.models.quantised import compute_in
from preftune.models.tokens import TokenSequence

POLICY, CRITIC = "default", "critic"  # names of adapters; the second marks all value weights
Rows = Sequence[Sequence[TokenSequence]]


class ValueModel(nn.Module):
    """What reward to expect from each own token on: one number per token, 0 at the start."""

    def __init__(self, width: int, model: Any = None) -> None:
        """Take the width of the hidden states; and a model of its own, if it has one."""
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def read(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """Return the value at each hidden state."""
        value: Tensor = self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()
        return value


class Actors(nn.Module):
    """All that learns in one module, so that one learner and one checkpoint hold it."""

    def __init__(self, policy: Any, critic: ValueModel | None) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """The models of a run, each asked through a core."""

    actors: Actors
    policy_core: Core
    value_core: Core | None
    reference_core: Core | None  # None: the policy's with its adapter off
    shared: bool  # policy and value are adapters on one copy

    @property
    def policy(self) -> Any:
        """The causal language model that is tuned."""
        return self.actors.policy

    def logprobs(self, rows: Rows) -> Float[Tensor, "B W"]:
        """Return log p of every own token under the policy."""
        return self.policy_core.token_logprobs(rows).logprobs

    def reference_logprobs(self, rows: Rows) -> Float[Tensor, "B W"]:
        """Return log p of every own token under the frozen reference."""
        return self.reference_tokens(rows).logprobs

    @torch.no_grad()
    def reference_tokens(self, rows: Rows) -> TokenLogprobs:
        """Return the same, with which of them are tokens."""
        if self.reference_core is not None:
            return self.reference_core.token_logprobs(rows)
        with adapter_off(self.policy):
            return self.policy_core.token_logprobs(rows)

    @contextmanager
    def valuing(self) -> Iterator[Callable[[Rows], Float[Tensor, "B W"]]]:
        """Yield a function from rows to the value before each own token; backward inside."""
        core, value = self.value_core, self.actors.critic
        if core is None or value is None:
            raise ValueError("this run has no value model")

        def values(rows: Rows) -> Float[Tensor, "B W"]:
            layout, hidden = core.states(rows)
            return spread(value.read(hidden), layout)

        with adapter_on(self.policy, CRITIC) if self.shared else nullcontext():
            yield values

    def finish(self) -> Any:
        """Return the policy to be saved, without the adapters of the others."""
        if hasattr(self.policy, "peft_config"):
            for name in [name for name in self.policy.peft_config if name != POLICY]:
                self.policy.delete_adapter(name)
        return self.policy


def new_roles(
    model: Any,
    *,
    lora: LoraSettings,
    engine: EngineSettings,
    with_value: bool,
    seed: int,
    temperature: float = 1.0,
    tell: Callable[[str], object] | None = None,
) -> Roles:
    """Return the roles of a run that starts from a model; all of them equal it.

    Args:
        model: a causal language model of transformers.
        lora: the adapter of policy and value; rank 0 gives each role weights of its own.
        engine: how the computing is done.
        with_value: whether there is a value model.
        seed: of the adapters.
        temperature: of the policy that samples, and of the reference it is compared with.
        tell: hears why prompts are not shared, if they are not.
    """
    width = int(model.config.get_text_config().hidden_size)
    shared = lora.lora_rank > 0
    reference = None if shared else frozen_copy(model, engine)
    policy = add_lora(model, lora, seed=seed) if shared else model
    value = None
    if with_value:
        own = None if shared else copy.deepcopy(model)
        value = ValueModel(width, own)
        if shared:
            add_value_adapter(policy, seed=seed + 1)
    actors = Actors(policy, value).eval()
    core = Core.of(policy, engine, tell=tell)
    core.temperature = temperature
    reference_core = Core.of(reference, engine) if reference is not None else None
    if reference_core is not None:
        reference_core.temperature = temperature
    value_core = None
    if value is not None:
        value_core = core if shared else Core.of(value.model, engine)
    return Roles(
        actors=actors,
        policy_core=core,
        value_core=value_core,
        reference_core=reference_core,
        shared=shared,
    )


def frozen_copy(model: Any, engine: EngineSettings) -> Any:
    """Return a copy that computes as the policy will, and learns nothing."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    dtype = resolve(engine.precision, reference)
    compute_in(reference, dtype)
    for parameter in numbers(reference):  # buffers stay as they are, like those of the policy
        parameter.data = parameter.data.to(dtype)
    return reference


def add_value_adapter(policy: Any, *, seed: int) -> None:
    """Give the policy's base a second adapter like the policy's; both of them are trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy.add_adapter(CRITIC, copy.deepcopy(policy.peft_config[POLICY]))
    train_adapters(policy, (POLICY, CRITIC))


def train_adapters(policy: Any, names: Sequence[str]) -> None:
    """Let the weights of these adapters, and no others, be trained."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(any(f".{adapter}." in name for adapter in names))


@contextmanager
def adapter_on(policy: Any, name: str) -> Iterator[None]:
    """Compute with another adapter inside the block."""
    policy.set_adapter(name)
    try:
        yield
    finally:
        policy.set_adapter(POLICY)


def described(roles: Roles, others: Sequence[tuple[str, nn.Module]] = ()) -> dict[str, str]:
    """Return which weights exist, by role, with their size in MB."""
    lines = {}
    policy = roles.policy
    whole = dict(policy.named_parameters())
    if roles.shared:
        base = [p for n, p in whole.items() if ".lora_" not in n]
        lines["base, shared by all roles"] = megabytes(base)
        lines["reference"] = "the base with its adapters off"
        names = [(name, name) for name in policy.peft_config if name not in (POLICY, CRITIC)]
        for role, adapter in (("policy", POLICY), ("value", CRITIC), *names):
            own = [p for n, p in whole.items() if f".{adapter}." in n and ".lora_" in n]
            if own:
                lines[role] = f"adapter, {megabytes(own)}"
    else:
        lines["policy"] = f"own copy, {megabytes(list(whole.values()))}"
        if roles.reference_core is not None:
            found = list(roles.reference_core.model.parameters())
            lines["reference"] = f"own copy, {megabytes(found)}"
        if roles.actors.critic is not None:
            found = list(roles.actors.critic.parameters())
            lines["value"] = f"own copy and head, {megabytes(found)}"
    for name, module in others:
        lines[name] = megabytes(list(module.parameters()))
    return lines


def megabytes(parameters: Sequence[Tensor]) -> str:
    """Return the size of tensors as text."""
    total = sum(p.numel() * p.element_size() for p in parameters)
    return f"{total / 2**20:.1f} MB"
