#!/usr/bin/env bash
# Every stage in order on a file of preference pairs of your own:
#
#   bash recipes/pipeline.sh PAIRS OUT [PRESET]
#   bash recipes/pipeline.sh care-desk OUT
#
# SFT, a reward model, then DPO, PPO and best-of-n side by side, each evaluated and gated.
# PAIRS is in any format preftune reads; care-desk makes the demo's pairs and SFT model first. With no
# model at hand a small one is made from nothing and taught on the chosen responses; to start from a
# model of your own, set MODEL=folder, or SFT=folder where it has been taught already. Run it again
# after an interruption: finished stages are left alone, an unfinished training goes on.
set -euo pipefail
pairs=$1 out=$2 preset=${3:-tiny}
by=${BY:-prompt}                  # what stays together in the split
vocabulary=${VOCABULARY:-4096}
sft_epochs=${SFT_EPOCHS:-3} epochs=${EPOCHS:-2} max_length=${MAX_LENGTH:-512}
lora=${LORA:-0} prompts_a_step=${PROMPTS_A_STEP:-16} tokens=${TOKENS:-128} n=${N:-8}
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

if [ "$pairs" = care-desk ]; then
  say "the care desk: facts, an SFT model, simulated raters"
  [ -e "$out/desk/pairs.jsonl" ] || preftune demo --out "$out/desk" --fresh ${QUICK:+--quick} || true
  pairs=$out/desk/pairs.jsonl SFT=$out/desk/teaching/sft/final
fi

say "read, refuse what cannot be used, look, split by prompt"
[ -e "$out/pairs.jsonl" ] || preftune data import "$pairs" --out "$out/pairs.jsonl" --skip-bad
preftune data inspect "$out/pairs.jsonl" --out "$out/look"
[ -e "$out/split" ] || preftune data split "$out/pairs.jsonl" --out "$out/split" --test 0.15 --by "$by"
train=$out/split/train.jsonl test=$out/split/test.jsonl

say "a model, taught on the chosen responses"
sft=${SFT:-$out/sft/final}
if [ -z "${SFT:-}" ]; then
  model=${MODEL:-$out/base}
  [ -e "$model" ] || preftune model new "$model" --preset "$preset" --text "$train" --vocab-size "$vocabulary"
  [ -e "$out/sft.jsonl" ] ||
    preftune data convert "$train" --to chat --into demonstrations --out "$out/sft.jsonl"
  preftune train sft --model "$model" --data "$out/sft.jsonl" --out "$out/sft" \
    --lr "${SFT_LR:-2e-3}" --epochs "$sft_epochs" --max-length "$max_length" --on-long drop
fi

say "a reward model"
preftune train reward --model "$sft" --data "$train" --held-out "$test" --out "$out/reward" \
  --lr 3e-4 --epochs "$epochs" --lora-rank "$lora" --max-length "$max_length" --on-long drop

say "DPO on the pairs"
preftune train direct --model "$sft" --data "$train" --held-out "$test" --out "$out/dpo" \
  --lr 2e-4 --epochs "$epochs" --nll-weight 0.2 --lora-rank "$lora" --max-length "$max_length" --on-long drop

say "PPO against the reward model; with LORA=16 all four roles live in one copy of the weights"
preftune train ppo --model "$sft" --data "$train" --reward "$out/reward/final" --out "$out/ppo" \
  --samples 4 --max-new-tokens "$tokens" --batch-size "$prompts_a_step" --epochs "${PPO_EPOCHS:-1}" \
  --lr 2e-4 --updates 1 --minibatches 2 --value-lr-factor 4 --kl-stop 1.5 --lora-rank "$lora"

say "sample SFT, DPO and PPO, and take the best of $n of SFT"
for name in sft dpo ppo; do
  from=$out/$name/final
  [ "$name" = sft ] && from=$sft
  preftune sample "$from" --prompts "$test" --out "$out/$name.replies.jsonl" --name "$name" \
    --n 1 --max-new-tokens "$tokens"
done
preftune best-of-n "$sft" --reward "$out/reward/final" --prompts "$test" --n "$n" \
  --max-new-tokens "$tokens" --out "$out/best-of-n.replies.jsonl" --name best-of-n

verdict=0
for name in dpo ppo best-of-n; do
  say "$name: judge by ROUGE-L against what the raters chose, evaluate, gate, report"
  preftune judge rules --first "$out/sft.replies.jsonl" --second "$out/$name.replies.jsonl" \
    --prompts "$test" --references "$test" --rule rouge-l --out "$out/$name.judged.jsonl"
  from=()
  [ -e "$out/$name/final" ] && from=(--policy "$out/$name/final" --reference "$sft")
  preftune evaluate --judged "$out/$name.judged.jsonl" --candidate "$name" --baseline sft \
    "${from[@]}" --out "$out/$name.evaluation.json"
  preftune gate "$out/$name.evaluation.json" --suite "${GATES:-recipes/gates.yaml}" \
    --out "$out/$name.gate.json" || verdict=$?
  preftune report "$out/$name.evaluation.json" --gate "$out/$name.gate.json" --out "$out/$name.report.html"
done
exit "$verdict"
