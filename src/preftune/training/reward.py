"""A reward model: one score per response, learnt from pairs or ranked lists, ties included."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from preftune.engine.batches import Order, chunks
from preftune.engine.layout import HasSequences, micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.engine.scores import prepare, score_rows
from preftune.losses.listwise import all_pairs_loss, best_of_k_loss, plackett_luce_loss
from preftune.losses.pairwise import (
    bradley_terry_loss,
    centring_penalty,
    davidson_loss,
    rao_kupper_loss,
    soft_bradley_terry_loss,
)
from preftune.models.chat import load_chat
from preftune.models.fingerprint import fingerprint, model_fingerprint
from preftune.models.heads import RewardModel, TieParameter, new_reward_model, save_reward_model
from preftune.models.reward_card import STARTED_FROM, Normalisation, RewardCard
from preftune.settings import checked
from preftune.training.listwise_rows import Comparisons, Lists, RankedRow, in_lists
from preftune.training.method_settings import RewardSettings
from preftune.training.reward_data import (
    PER_LIST,
    Material,
    PreferenceRow,
    check_data,
    leans_of,
    material_hash,
    preference_rows,
    read_held_out_of,
    read_material,
    tie_share,
)
from preftune.training.rows import PairRow, TokenRows, stream_lengths
from preftune.training.run import Run
from preftune.training.tokenise import pair_rows

SCORE_BATCH = 64  # most rows scored in one forward
NORMALISE_ON = 512  # training rows that mean and standard deviation are taken over


def train(settings: RewardSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the reward model.

    Scores are normalised afterwards: mean 0, standard deviation 1 over the responses of the first
    512 training rows.

    Raises:
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    chat = load_chat(s.model)
    material = read_material(s.data, chat, dimension=s.dimension)
    kept_out = pair_rows(read_held_out_of(s.held_out, s.dimension), chat)
    check_data(material, s)
    model = new_reward_model(s.model, seed=s.run.seed, lora=s.lora)
    inputs = {"data": material_hash(material), "model": model_fingerprint(model, chat)}
    with Run.open(s, method="reward", inputs=inputs) as run:
        if run.finished:
            return run.final
        about = about_model(model, s)
        rows = preference_rows(run, material, chat, s)
        held_rows = run.rows_that_fit(kept_out, s.length, chat, name="held_out")
        s = run.settled(s, rows)
        order = Order.of_lengths(stream_lengths(rows), s.optimizer, seed=s.run.seed)
        ties = tie_parameter(material, s)
        masters = Masters(nn.ModuleList([model, ties]) if ties else model, s.engine.precision)
        learner = Learner.of(masters, order, s.optimizer)
        prepare(model, s.engine)
        model.train()
        for step, numbers in run.steps(learner):
            metrics = backward(model, [rows[number] for number in numbers], s, ties=ties)
            run.update(learner, step=step, metrics=metrics)
        masters.finish()
        model.eval()
        normalise(model, rows[:NORMALISE_ON], s)
        if held_rows:
            found = margins(model, held_rows, s)
            leans, held_leans = leans_of(material), held_rows.facts["lean"]
            run.report_held_out(trained_on=leans, leans=held_leans, margins=found)
        about |= {ties.name: ties().item()} if ties else {}
        return run.publish(lambda folder: save_reward_model(model, chat, folder, about=about))


def about_model(model: RewardModel, s: RewardSettings) -> dict[str, str | float]:
    """Return what the folder of a reward model says of it; to be asked before it is trained."""
    about: dict[str, str | float] = {"objective": s.objective}
    if s.dimension:
        about["dimension"] = s.dimension
    if not s.lora.lora_rank:
        about[STARTED_FROM] = fingerprint(model.backbone)
    return about


def backward(
    model: RewardModel,
    batch: Sequence[PreferenceRow],
    s: RewardSettings,
    *,
    ties: TieParameter | None = None,
) -> dict[str, float]:
    """Leave the gradient of one step in the model; return the step's metrics.

    The loss is the weighted sum over comparisons (or lists) divided by the weight of the whole
    step, so that micro-batches of any size give the same gradient. All but the loss is measured on
    the comparisons that are not tied, and left out of a step without any.
    """
    total = sum(weight_of(row, s) for row in batch)
    sums = torch.zeros(5)
    lengths = [stream_length(row.sequences) for row in batch]
    for part in micro_batches(lengths, s.engine.token_limit):
        rows = [batch[i] for i in part]
        lists = in_lists(rewards_of(model, rows), [ranks_of(row) for row in rows])
        loss = summed_loss(lists, rows, s, ties=ties) / total
        loss.backward()
        compared = lists.comparisons()
        chosen, rejected = compared.first[~compared.tied], compared.second[~compared.tied]
        right = (chosen > rejected).float().sum()
        count = (~compared.tied).float().sum()
        sums += torch.stack([loss, count, right, chosen.sum(), rejected.sum()]).detach().cpu()
    mean_loss, ordered, right, chosen_sum, rejected_sum = sums.tolist()
    metrics = {"loss": mean_loss}
    if ordered:
        metrics |= {
            "accuracy": right / ordered,
            "chosen_reward": chosen_sum / ordered,
            "rejected_reward": rejected_sum / ordered,
            "reward_gap": (chosen_sum - rejected_sum) / ordered,
        }
    return metrics | ({ties.name: ties().item()} if ties else {})


def summed_loss(
    lists: Lists, rows: Sequence[PreferenceRow], s: RewardSettings, *, ties: TieParameter | None
) -> Tensor:
    """Return the sum of all losses times their weights, in nats.

    Objectives on comparisons weigh each of a list's K (K - 1) / 2 comparisons like its row, those
    on lists the list as a whole. Centring is taken over the comparisons, in the same proportion.
    """
    compared = lists.comparisons()
    of_row = lists.values.new_tensor([row.weight for row in rows])
    weights = of_row[compared.row]
    if s.objective in PER_LIST:
        weights = weights / compared.row.bincount()[compared.row]
        losses = (of_row * list_losses(lists, s)).sum()
    else:
        losses = (weights * comparison_losses(compared, rows, s, ties=ties)).sum()
    centring = centring_penalty(chosen_rewards=compared.first, rejected_rewards=compared.second)
    return losses + s.centring * (weights * centring).sum()


def list_losses(lists: Lists, s: RewardSettings) -> Tensor:
    """Return the loss of each ranked list in nats."""
    if s.objective == "best-of-k":
        best = lists.ranks.new_zeros(len(lists.ranks))
        return best_of_k_loss(scores=lists.values, best=best, mask=lists.mask)
    loss = plackett_luce_loss if s.objective == "plackett-luce" else all_pairs_loss
    return loss(scores=lists.values, ranks=lists.ranks, mask=lists.mask)


def comparison_losses(
    compared: Comparisons,
    rows: Sequence[PreferenceRow],
    s: RewardSettings,
    *,
    ties: TieParameter | None,
) -> Tensor:
    """Return the loss of each comparison in nats, with all that its raters said."""
    scores = {"chosen_rewards": compared.first, "rejected_rewards": compared.second}
    pairs = [row for row in rows if isinstance(row, PairRow)]
    if ties and s.objective == "davidson":
        return davidson_loss(**scores, tied=compared.tied, nu=ties())
    if ties:
        return rao_kupper_loss(**scores, tied=compared.tied, theta=ties())
    if s.ties == "half":
        half = torch.where(compared.tied, 0.5, 1.0).to(compared.first)
        return soft_bradley_terry_loss(**scores, probability=half)
    if s.label == "soft":
        probability = compared.first.new_tensor([pair.probability for pair in pairs])
        return soft_bradley_terry_loss(**scores, probability=probability)
    if s.label == "margin":
        strength = compared.first.new_tensor([pair.strength or 0 for pair in pairs])
        return bradley_terry_loss(**scores, margin=s.margin_per_strength * strength)
    return bradley_terry_loss(**scores)


def rewards_of(model: RewardModel, rows: Sequence[HasSequences]) -> Tensor:
    """Return the score of every response, row after row."""
    return score_rows(model, [row.sequences for row in rows])


def ranks_of(row: PreferenceRow) -> tuple[int, ...]:
    """Return the rank of each response of a row, best first."""
    return row.ranks if isinstance(row, RankedRow) else (1, 2)


def weight_of(row: PreferenceRow, s: RewardSettings) -> float:
    """Return what a row weighs in its step: once per list, or once per comparison."""
    if s.objective in PER_LIST:
        return row.weight
    responses = len(row.sequences)
    return row.weight * (responses * (responses - 1) // 2)


def tie_parameter(material: Material, s: RewardSettings) -> TieParameter | None:
    """Return the learnt tie parameter, at the share of ties in the lists; None without one."""
    if isinstance(material, TokenRows):
        return None
    match s.objective:
        case "davidson" | "rao-kupper" as model:
            return TieParameter(model, tie_share=tie_share([record.ranks for record in material]))
        case _:
            return None


def margins(model: RewardModel, rows: Sequence[PairRow], s: RewardSettings) -> list[float]:
    """Return how much higher the score of chosen is than that of rejected, per pair."""
    scores = scores_of(model, rows, token_limit=s.engine.token_limit).reshape(-1, 2)
    return (scores[:, 0] - scores[:, 1]).tolist()


@torch.no_grad()
def scores_of(model: RewardModel, rows: Sequence[PreferenceRow], *, token_limit: int) -> Tensor:
    """Return the scores of all responses, row after row.

    Args:
        model: the reward model.
        rows: the rows.
        token_limit: most tokens in one forward, which has 64 rows at the most; 0: no limit.
    """
    found = []
    for some in chunks(rows, SCORE_BATCH):
        lengths, batch = stream_lengths(some), list(some)
        parts = micro_batches(lengths, token_limit)
        found += [rewards_of(model, [batch[place] for place in part]) for part in parts]
    return torch.cat(found)


def normalise(model: RewardModel, rows: Sequence[PreferenceRow], s: RewardSettings) -> None:
    """Give the scores of these training rows mean 0 and standard deviation 1, and say so."""
    scores = scores_of(model, rows, token_limit=s.engine.token_limit).double()
    mean, std = scores.mean().item(), scores.std(correction=0).clamp_min(1e-8).item()
    model.set_normalisation(mean, std)
    said = Normalisation(
        mean=mean, std=std, responses=len(scores), source=f"{s.data.name} (training rows)"
    )
    model.card = RewardCard(normalisation=said)
