"""A reward model: one score per response, learnt from pairs or ranked lists, ties included."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from preftune.datasets import dataset_hash
from preftune.engine.batches import Order, chunks
from preftune.engine.layout import HasSequences, micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.engine.scores import prepare, score_rows
from preftune.errors import DataError, SettingsError
from preftune.losses.listwise import all_pairs_loss, best_of_k_loss, plackett_luce_loss
from preftune.losses.pairwise import (
    bradley_terry_loss,
    centring_penalty,
    davidson_loss,
    rao_kupper_loss,
    soft_bradley_terry_loss,
)
from preftune.models.chat import Chat, load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.heads import RewardModel, TieParameter, new_reward_model, save_reward_model
from preftune.settings import checked
from preftune.training.listwise_rows import (
    Comparisons,
    Lists,
    RankedRow,
    in_lists,
    one_pair_each,
    ranked_rows,
    read_either,
    read_held_out,
    rows_that_fit,
)
from preftune.training.method_settings import RewardSettings
from preftune.training.rows import PairRow, pair_rows
from preftune.training.run import Run
from preftune.types import PreferencePair, RankedList

SCORE_BATCH = 64  # rows scored in one forward
NORMALISE_ON = 512  # training rows that mean and standard deviation are taken over
WITH_TIES = ("davidson", "rao-kupper")
PER_LIST = ("plackett-luce", "all-pairs", "best-of-k")

PreferenceRow = PairRow | RankedRow


def train(settings: RewardSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the reward model.

    Scores are normalised afterwards: mean 0, standard deviation 1 over the responses of the first
    512 training rows.

    Raises:
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    records = read_either(s.data, PreferencePair, RankedList)
    held_out = read_held_out(s.held_out)
    check_data(records, s)
    chat = load_chat(s.model)
    model = new_reward_model(s.model, seed=s.run.seed, lora=s.lora)
    inputs = {"data": dataset_hash(records), "model": model_fingerprint(model, chat)}
    with Run.open(s, method="reward", inputs=inputs) as run:
        if run.finished:
            return run.final
        rows = preference_rows(run, records, chat, s)
        order = Order.of((row.sequences for row in rows), s.optimizer, seed=s.run.seed)
        ties = tie_parameter(records, s)
        masters = Masters(nn.ModuleList([model, ties]) if ties else model, s.engine.precision)
        learner = Learner.of(masters, order, s.optimizer)
        prepare(model, s.engine)
        model.train()
        for step, numbers in run.steps(learner):
            metrics = backward(model, [rows[number] for number in numbers], s, ties=ties)
            run.update(learner, step=step, metrics=metrics)
        masters.finish()
        model.eval()
        model.set_normalisation(*mean_and_std(model, rows[:NORMALISE_ON]))
        if held_out:
            report_held_out(run, model, chat, s, records=records, held_out=held_out)
        about = {"objective": s.objective} | ({ties.name: ties().item()} if ties else {})
        return run.publish(lambda folder: save_reward_model(model, chat, folder, about=about))


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
    the comparisons that are not tied, and 0 in a step without any.
    """
    total = sum(weight_of(row, s) for row in batch)
    sums = torch.zeros(5)
    lengths = [stream_length(row.sequences) for row in batch]
    for part in micro_batches(lengths, s.engine.micro_tokens):
        rows = [batch[i] for i in part]
        lists = in_lists(rewards_of(model, rows), [ranks_of(row) for row in rows])
        loss = summed_loss(lists, rows, s, ties=ties) / total
        loss.backward()
        compared = lists.comparisons()
        chosen, rejected = compared.first[~compared.tied], compared.second[~compared.tied]
        right = (chosen > rejected).float().sum()
        count = (~compared.tied).float().sum()
        sums += torch.stack([loss, count, right, chosen.sum(), rejected.sum()]).detach().cpu()
    mean_loss, count, right, chosen_sum, rejected_sum = sums.tolist()
    ordered = max(count, 1.0)
    return {
        "loss": mean_loss,
        "accuracy": right / ordered,
        "chosen_reward": chosen_sum / ordered,
        "rejected_reward": rejected_sum / ordered,
        "reward_gap": (chosen_sum - rejected_sum) / ordered,
        **({ties.name: ties().item()} if ties else {}),
    }


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


def tie_parameter(
    records: Sequence[PreferencePair] | Sequence[RankedList], s: RewardSettings
) -> TieParameter | None:
    """Return the learnt tie parameter, at the share of ties in the lists; None without one."""
    lists = [record.ranks for record in records if isinstance(record, RankedList)]
    match s.objective:
        case "davidson" | "rao-kupper" as model:
            return TieParameter(model, tie_share=tie_share(lists))
        case _:
            return None


def tie_share(ranks: Sequence[tuple[int, ...]]) -> float:
    """Return which share of the comparisons in these lists is tied."""
    tied = sum(places.count(place) - 1 for places in ranks for place in places) / 2
    return tied / sum(len(places) * (len(places) - 1) / 2 for places in ranks)


def check_data(records: Sequence[PreferencePair] | Sequence[RankedList], s: RewardSettings) -> None:
    """Refuse what the objective has no place for, and options that would change nothing.

    Raises:
        DataError: ties, or lists without an order, that the objective cannot use.
        SettingsError: an objective or option that the records give no cause for.
    """
    lists = [record for record in records if isinstance(record, RankedList)]
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    if lists:
        _check_lists(lists, s)
    elif s.objective != "bradley-terry":
        raise SettingsError(
            f"objective {s.objective} needs ranked lists and {s.data} holds pairs. "
            "Use bradley-terry, or give ranked lists; two equal ranks are a tie."
        )
    elif s.ties == "half":
        raise SettingsError(f"ties half changes nothing: {s.data} holds pairs. Leave it out.")
    if s.label == "soft" and all(pair.probability == 1.0 for pair in pairs):
        raise SettingsError(
            f"label soft changes nothing: no pair of {s.data} has a probability below 1. "
            "Use label hard."
        )
    if s.label == "margin" and not any(pair.strength for pair in pairs):
        raise SettingsError(
            f"label margin changes nothing: no pair of {s.data} has a strength above 0. "
            "Use label hard."
        )


def _check_lists(lists: Sequence[RankedList], s: RewardSettings) -> None:
    if s.label != "hard":
        raise SettingsError(
            f"label {s.label} needs pairs: {s.data} holds ranked lists. Use label hard."
        )
    share = tie_share([record.ranks for record in lists])
    if share and s.objective == "bradley-terry" and s.ties == "refuse":
        tied = [record for record in lists if len(set(record.ranks)) < len(record.ranks)]
        raise DataError(
            f"{s.data}: {len(tied)} of {len(lists)} lists hold ties, the first is {tied[0].id}. "
            "Use --objective davidson, which learns from them, or --ties half."
        )
    if not share and (s.objective in WITH_TIES or s.ties == "half"):
        option = f"objective {s.objective}" if s.objective in WITH_TIES else "ties half"
        raise SettingsError(
            f"{option} changes nothing: {s.data} holds no ties. Use objective bradley-terry alone."
        )
    if share == 1.0:
        raise DataError(f"{s.data}: every comparison is a tie. Give lists with an order.")
    if s.objective in PER_LIST:
        _refuse_without_order(lists, s)


def _refuse_without_order(lists: Sequence[RankedList], s: RewardSettings) -> None:
    """Refuse lists that put nothing above anything, or no one response above all others."""
    if s.objective == "best-of-k":
        unusable = [record for record in lists if record.ranks.count(record.ranks[0]) > 1]
        what = "have no single best response"
    else:
        unusable = [record for record in lists if len(set(record.ranks)) == 1]
        what = "put no response above another"
    if unusable:
        raise DataError(
            f"{s.data}: {len(unusable)} of {len(lists)} lists {what}, the first is "
            f"{unusable[0].id}. Leave them out, or use --objective davidson."
        )


def preference_rows(
    run: Run,
    records: Sequence[PreferencePair] | Sequence[RankedList],
    chat: Chat,
    s: RewardSettings,
) -> Sequence[PreferenceRow]:
    """Return the token rows of pairs or ranked lists that fit and that end as they must."""
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    lists = [record for record in records if isinstance(record, RankedList)]
    if pairs:
        rows: Sequence[PreferenceRow] = run.rows_that_fit(
            pair_rows(pairs, chat), pairs, s.length, chat
        )
    else:
        rows = rows_that_fit(run, ranked_rows(lists, chat), lists, s.length, chat)
    check_ends(rows, chat)
    return rows


def check_ends(rows: Sequence[PreferenceRow], chat: Chat) -> None:
    """Refuse a response whose last own token, where it is scored, doesn't end a turn.

    Raises:
        DataError: names the row.
    """
    for row in rows:
        for sequence in row.sequences:
            last = next((i for i in reversed(range(len(sequence))) if sequence.own[i]), None)
            if last is None or sequence.ids[last] not in chat.end_ids:
                raise DataError(
                    f"row {row.number + 1}: a response doesn't end with an end of turn, where it "
                    "is scored. Remove it, or give a chat template that ends turns."
                )


def report_held_out(
    run: Run,
    model: RewardModel,
    chat: Chat,
    s: RewardSettings,
    *,
    records: Sequence[PreferencePair] | Sequence[RankedList],
    held_out: Sequence[PreferencePair],
) -> None:
    """Write how often the model scores the better response higher; one pair per ranked list."""
    rows = run.rows_that_fit(pair_rows(held_out, chat), held_out, s.length, chat, name="held_out")
    scores = scores_of(model, rows).reshape(-1, 2)
    run.report_held_out(
        trained_on=one_pair_each(records),
        pairs=[held_out[row.number] for row in rows],
        margins=(scores[:, 0] - scores[:, 1]).tolist(),
    )


@torch.no_grad()
def scores_of(model: RewardModel, rows: Sequence[PreferenceRow]) -> Tensor:
    """Return the scores of all responses, row after row."""
    return torch.cat([rewards_of(model, micro) for micro in chunks(rows, SCORE_BATCH)])


def mean_and_std(model: RewardModel, rows: Sequence[PreferenceRow]) -> tuple[float, float]:
    """Return mean and population standard deviation of the raw scores of all responses."""
    scores = scores_of(model, rows).double()
    return scores.mean().item(), scores.std(correction=0).clamp_min(1e-8).item()
