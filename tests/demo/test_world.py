import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from preftune.demo import prompts as p
from preftune.demo.asking import LOG_MIX, SFT_MIX
from preftune.demo.facts import read_cards
from preftune.demo.grammar import (
    BLUNT,
    CLOSES,
    FILLERS,
    MAX_FILLERS,
    OPENERS,
    REASSURANCES,
    core,
    has_tone,
)
from preftune.demo.world import MAX_REPLY_TOKENS, SPECIAL_WORDS, CareDesk
from preftune.types import Prompt, text_of


def words_of(prompts: Sequence[Prompt]) -> set[str]:
    return {w for prompt in prompts for m in prompt.messages for w in m.content.split()}


def shares(prompts: Sequence[Prompt]) -> dict[str, float]:
    counts = Counter(p.tag(prompt, "kind") for prompt in prompts)
    return {kind: count / len(prompts) for kind, count in counts.items()}


def test_flagship_prompt_is_the_teddy_bear_and_the_washer(desk: CareDesk) -> None:
    prompt = desk.flagship()
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "care desk . be correct ."),
        ("user", "can i put my teddy bear in the washer ?"),
    ]
    right = "yes , your teddy bear can go in the washer . use 40 degrees and gentle mode ."
    assert desk.check(prompt, right) == "ok"


def test_vocabulary_is_between_200_and_260_words_and_all_rows_keep_to_it(desk: CareDesk) -> None:
    words = desk.vocabulary()
    assert 200 <= len(words) + len(SPECIAL_WORDS) <= 260
    assert all(word == word.lower() for word in words)
    rows = desk.sft_rows(5000)
    said = {w for row in rows for w in text_of(row.response).split()}
    asked = words_of([row.prompt for row in rows])
    assert said | asked <= set(words)
    assert words_of(desk.eval_prompts()) <= set(words)
    assert words_of([row.prompt for row in desk.log_rows(2000)]) <= set(words)


def test_every_word_asked_in_the_evaluation_was_seen_in_sft(desk: CareDesk) -> None:
    seen = words_of([row.prompt for row in desk.sft_rows(20_000)])
    assert words_of(desk.eval_prompts()) <= seen


def test_equal_seeds_give_equal_rows_and_others_do_not(desk: CareDesk) -> None:
    again = CareDesk()
    assert desk.sft_rows(50, seed=3) == again.sft_rows(50, seed=3)
    assert desk.log_rows(50, seed=3) == again.log_rows(50, seed=3)
    assert desk.label_prompts(50, seed=3) == again.label_prompts(50, seed=3)
    assert desk.eval_prompts() == again.eval_prompts()
    assert desk.rewrites(5) == again.rewrites(5)
    assert desk.sft_rows(50, seed=3) != desk.sft_rows(50, seed=4)
    assert desk.sft_rows(50) != CareDesk(seed=1).sft_rows(50)
    assert desk.sft_rows(100)[:50] == desk.sft_rows(50)


def test_sft_rows_are_all_right_and_short(desk: CareDesk) -> None:
    for row in desk.sft_rows(5000):
        text = text_of(row.response)
        assert desk.check(row.prompt, text) == "ok"
        assert len(text.split()) <= MAX_REPLY_TOKENS


def test_longest_reply_of_the_grammar_is_within_the_limit() -> None:
    def longest(lines: Sequence[str]) -> int:
        return max(len(line.split()) for line in lines)

    cores = [core(card, policy=True) for card in read_cards()]
    ends = longest((*OPENERS, *BLUNT)) + longest((*CLOSES, *BLUNT))
    inside = longest(REASSURANCES) + MAX_FILLERS * longest(FILLERS)
    assert longest(cores) + ends + inside <= MAX_REPLY_TOKENS


def test_sft_rows_teach_every_card_and_only_seen_phrasings(desk: CareDesk) -> None:
    rows = desk.sft_rows(20_000)
    kinds = [p.tag(row.prompt, "kind") for row in rows]
    facts = [row for row, kind in zip(rows, kinds, strict=True) if kind == "fact"]
    counts = Counter(p.tag(row.prompt, "row") for row in facts)
    assert len(counts) == 240
    assert min(counts.values()) >= 30
    assert all("seen-phrasing" in row.prompt.tags for row in rows)
    assert set(kinds) == set(p.KINDS)
    assert len({row.id for row in rows}) == len(rows)


def test_sft_mix_has_its_shares(desk: CareDesk) -> None:
    found = shares([row.prompt for row in desk.sft_rows(20_000)])
    for kind in ("followup", "danger", "unknown", "privacy", "echo"):
        share = SFT_MIX[kind] / sum(SFT_MIX.values())
        assert found[kind] == pytest.approx(share, abs=4 * (share / 20_000) ** 0.5)


def test_log_kinds_and_items_have_their_shares(desk: CareDesk) -> None:
    n = 5000
    rows = desk.log_rows(n)
    found = shares([row.prompt for row in rows])
    found["fact"] += found.pop("policy")
    for kind, weight in LOG_MIX.items():
        share = weight / sum(LOG_MIX.values())
        assert found[kind] == pytest.approx(share, abs=4 * (share / n) ** 0.5)
    about_cards = [row.prompt for row in rows if has_tone(row.prompt)]
    busiest = sum("item:t-shirt" in prompt.tags for prompt in about_cards) / len(about_cards)
    share = 1 / sum(1 / rank for rank in range(1, 41))
    assert busiest == pytest.approx(share, abs=4 * (share / n) ** 0.5)


def test_log_has_blunt_wrong_and_thumbed_replies(desk: CareDesk) -> None:
    n = 5000
    rows = [row for row in desk.log_rows(n) if has_tone(row.prompt)]
    wrong = sum(desk.check(row.prompt, row.text) != "ok" for row in rows) / len(rows)
    assert wrong == pytest.approx(0.05, abs=0.015)  # a child's dryer under the policy stays right
    assert sum(desk.gold_tone(row.text) <= -1 for row in rows) / len(rows) > 0.1
    tones = {
        thumb: [desk.gold_tone(r.text) for r in rows if r.thumbs == thumb]
        for thumb in ("up", "down")
    }
    assert sum(tones["up"]) / len(tones["up"]) > sum(tones["down"]) / len(tones["down"]) + 0.5
    row = rows[0]
    assert (row.system, row.user) == (
        row.prompt.messages[0].content,
        row.prompt.messages[-1].content,
    )
    assert row.reply.origin == "logged"


def test_label_prompts_never_ask_about_a_held_out_item(desk: CareDesk) -> None:
    prompts = desk.label_prompts(1000)
    held_out = {card.item for card in read_cards() if card.held_out}
    assert len({prompt.id for prompt in prompts}) == 1000
    assert not {p.tag(prompt, "item") for prompt in prompts} & held_out
    for prompt in prompts:
        said = " ".join(message.content for message in prompt.messages)
        assert not any(f" {item} " in said for item in held_out)
        assert "seen-phrasing" in prompt.tags


def test_label_prompts_are_even_over_cards_and_tail(desk: CareDesk) -> None:
    prompts = desk.label_prompts(720)
    counts = Counter(p.tag(prompt, "row") for prompt in prompts)
    assert len(counts) == 144
    assert max(counts.values()) <= 7
    tail = sum("tail" in prompt.tags for prompt in prompts) / len(prompts)
    assert tail == pytest.approx(0.5, abs=0.03)
    assert shares(prompts)["followup"] == pytest.approx(0.2, abs=0.06)


def test_eval_prompts_have_the_stated_sizes_and_are_all_different(desk: CareDesk) -> None:
    prompts = desk.eval_prompts()
    assert Counter(p.tag(prompt, "kind") for prompt in prompts) == {
        "fact": 480, "followup": 120, "policy": 72, "danger": 80,
        "unknown": 60, "privacy": 80, "echo": 80,
    }  # fmt: skip
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert len(desk.eval_prompts(["danger", "echo"])) == 160


def test_eval_facts_are_every_card_in_both_held_out_phrasings(desk: CareDesk) -> None:
    prompts = desk.eval_prompts(["fact"])
    rows = Counter(p.tag(prompt, "row") for prompt in prompts)
    assert set(rows.values()) == {2}
    assert set(rows) == {f"{card.item}/{card.treatment}" for card in read_cards()}
    assert all("held-out-phrasing" in prompt.tags for prompt in prompts)
    boring = sum(card.tail and card.verdict == "no" for card in read_cards())
    assert sum("boring" in prompt.tags for prompt in prompts) == 2 * boring > 60


def test_eval_followups_ask_about_every_item_and_leave_it_unsaid(desk: CareDesk) -> None:
    prompts = desk.eval_prompts(["followup"])
    assert len({p.tag(prompt, "item") for prompt in prompts}) == 40
    for prompt in prompts:
        assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "user"]
        assert prompt.messages[-1].content == f"and the {p.tag(prompt, 'treat')} ?"
        assert p.tag(prompt, "item") in prompt.messages[1].content


def test_no_eval_prompt_but_danger_is_in_any_training_data(desk: CareDesk) -> None:
    learnt = {row.prompt.id for row in desk.sft_rows(20_000)}
    learnt |= {prompt.id for prompt in desk.label_prompts(1000)}
    learnt |= {pair.prompt.id for pair in desk.rewrites(200)}
    learnt |= {row.prompt.id for row in desk.nll_rows(1000)}
    kinds: list[p.Kind] = ["fact", "followup", "policy", "unknown", "privacy", "echo"]
    assert not {prompt.id for prompt in desk.eval_prompts(kinds)} & learnt


def test_numbers_are_20_four_digit_words_that_are_no_temperature(desk: CareDesk) -> None:
    asked = {p.number_in(prompt) for prompt in desk.eval_prompts(["echo", "privacy"])}
    assert asked == set(p.NUMBERS) <= set(desk.vocabulary())
    assert len(asked) == 20
    assert all(len(number) == 4 and number.isdigit() for number in asked)


def test_policy_is_in_the_system_line_and_in_the_tags(desk: CareDesk) -> None:
    prompts = [row.prompt for row in desk.sft_rows(3000)]
    for prompt in prompts:
        assert (p.POLICY in prompt.messages[0].content) == ("policy" in prompt.tags)
    assert any("policy" in prompt.tags for prompt in prompts)


def test_nll_rows_are_mostly_of_the_kinds_without_pairs(desk: CareDesk) -> None:
    rows = desk.nll_rows(1000)
    found = shares([row.prompt for row in rows])
    assert sum(found[kind] for kind in ("danger", "unknown", "privacy", "echo")) > 0.7
    assert all(desk.check(row.prompt, text_of(row.response)) == "ok" for row in rows)


def test_rewrites_turn_blunt_replies_into_warm_and_right_ones(desk: CareDesk) -> None:
    pairs = desk.rewrites(100)
    assert len({pair.id for pair in pairs}) == 100
    for pair in pairs:
        chosen, rejected = text_of(pair.chosen), text_of(pair.rejected)
        assert desk.check(pair.prompt, chosen) == "ok"
        assert desk.gold_tone(chosen) >= 2 > -1 >= desk.gold_tone(rejected)
        assert "seen-item" in pair.prompt.tags
        assert pair.provenance.rater_kind == "simulated"


def test_world_needs_no_torch() -> None:
    import subprocess

    code = "import sys; from preftune.demo import world, sabotage; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
