#!/usr/bin/env bash
# Every stage in order on a file of preference pairs of your own:
#
#   bash recipes/pipeline.sh PAIRS OUT [PRESET]
#
# PAIRS is in any format preftune reads. With no model at hand a small one is made from nothing and
# taught on the chosen responses; to start from a model of your own, set MODEL=folder. Run it again
# after an interruption: finished stages are left alone, an unfinished training goes on.
set -euo pipefail
pairs=$1 out=$2 preset=${3:-tiny}
by=${BY:-prompt}                  # what stays together in the split
vocabulary=${VOCABULARY:-4096}
sft_epochs=${SFT_EPOCHS:-3} epochs=${EPOCHS:-2} max_length=${MAX_LENGTH:-512}
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

say "read, refuse what cannot be used, look, split by prompt"
[ -e "$out/pairs.jsonl" ] || preftune data import "$pairs" --out "$out/pairs.jsonl" --skip-bad
preftune data inspect "$out/pairs.jsonl" --out "$out/look"
[ -e "$out/split" ] || preftune data split "$out/pairs.jsonl" --out "$out/split" --test 0.15 --by "$by"
train=$out/split/train.jsonl test=$out/split/test.jsonl

say "a model, taught on the chosen responses"
model=${MODEL:-$out/base}
[ -e "$model" ] || preftune model new "$model" --preset "$preset" --text "$train" --vocab-size "$vocabulary"
[ -e "$out/sft.jsonl" ] ||
  preftune data convert "$train" --to chat --into demonstrations --out "$out/sft.jsonl"
preftune train sft --model "$model" --data "$out/sft.jsonl" --out "$out/sft" \
  --lr "${SFT_LR:-2e-3}" --epochs "$sft_epochs" --max-length "$max_length" --on-long drop

say "a reward model, and DPO"
preftune train reward --model "$out/sft/final" --data "$train" --held-out "$test" \
  --out "$out/reward" --lr 3e-4 --epochs "$epochs" --max-length "$max_length" --on-long drop
preftune train direct --model "$out/sft/final" --data "$train" --held-out "$test" \
  --out "$out/dpo" --lr 2e-4 --epochs "$epochs" --nll-weight 0.2 --max-length "$max_length" --on-long drop

say "sample both, judge by ROUGE-L against what the raters chose, evaluate, gate, report"
for name in sft dpo; do
  preftune sample "$out/$name/final" --prompts "$test" --out "$out/$name.replies.jsonl" --name "$name" \
    --n 1 --max-new-tokens 128
done
preftune judge rules --first "$out/sft.replies.jsonl" --second "$out/dpo.replies.jsonl" \
  --prompts "$test" --references "$test" --rule rouge-l --out "$out/judged.jsonl"
preftune evaluate --judged "$out/judged.jsonl" --candidate dpo --baseline sft \
  --policy "$out/dpo/final" --reference "$out/sft/final" --out "$out/evaluation.json"
verdict=0
preftune gate "$out/evaluation.json" --suite "${GATES:-recipes/gates.yaml}" --out "$out/gate.json" || verdict=$?
preftune report "$out/evaluation.json" --gate "$out/gate.json" --out "$out/report.html"
exit "$verdict"
