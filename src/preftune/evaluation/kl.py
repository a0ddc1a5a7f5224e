"""How far a policy has moved from its reference, measured on its own fresh replies."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import nn

from preftune.errors import DataError
from preftune.evaluation.measures import Measure, mean_measure
from preftune.inference.score import sampled_kl
from preftune.models.chat import Chat, load_chat
from preftune.models.load import load_policy
from preftune.types import Comparison, Prompt, Response


def kl_measure(
    policy: nn.Module,
    reference: nn.Module,
    chat: Chat,
    *,
    prompts: Mapping[str, Prompt],
    responses: Sequence[Response],
) -> Measure:
    """Return the sampled KL(policy : reference) in nats per reply, interval clustered by prompt.

    Args:
        policy: the model that drew the responses.
        reference: the model it was tuned from.
        chat: the tokens and template of both.
        prompts: the prompt of each prompt id.
        responses: drawn from the policy at temperature 1 with nothing filtered out.

    Raises:
        DataError: no responses, or one that was not drawn that way: the mean over others is no KL.
    """
    for response in responses:
        drawn = response.sampling
        if drawn is not None and (drawn.temperature, drawn.top_p, drawn.top_k) != (1.0, 1.0, 0):
            raise DataError(
                f"response {response.id}: drawn at temperature {drawn.temperature}, top_p "
                f"{drawn.top_p}, top_k {drawn.top_k}. KL needs samples at 1, 1, 0."
            )
    sequences = [chat.encode(prompts[r.prompt_id], r.messages) for r in responses]
    kl = sampled_kl(policy, reference, sequences).tolist()
    return mean_measure(
        "kl",
        kl,
        [r.prompt_id for r in responses],
        unit="nats per reply",
        note="fresh replies of the candidate, against the model it was tuned from",
    )


def kl_of_comparisons(
    comparisons: Iterable[Comparison],
    *,
    candidate: str,
    policy: str | Path,
    reference: str | Path,
) -> Measure:
    """Return the sampled KL over the candidate's replies in these comparisons.

    Args:
        comparisons: what was judged.
        candidate: generator name of the policy's replies.
        policy: folder of the policy.
        reference: folder of the model it was tuned from.
    """
    prompts: dict[str, Prompt] = {}
    replies: dict[str, Response] = {}
    for comparison in comparisons:
        prompts[comparison.prompt.id] = comparison.prompt
        replies |= {r.id: r for r in comparison.responses if r.generator == candidate}
    return kl_measure(
        load_policy(policy),
        load_policy(reference),
        load_chat(policy),
        prompts=prompts,
        responses=list(replies.values()),
    )
