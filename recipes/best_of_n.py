"""Best-of-n: draw n responses to each prompt, keep the one that a reward model likes best.

python recipes/best_of_n.py --model runs/sft/final --reward runs/reward/final --prompts p.jsonl
The same on disk as it goes, with graders, deadlines, early stops and plots: preftune best-of-n.
"""

import argparse

from preftune.datasets import write_records
from preftune.datasets.read import read_prompts
from preftune.inference.backend import load_generator
from preftune.inference.reward_scorer import load_scorer
from preftune.responses.generator import GenerateSettings
from preftune.responses.sample import plan
from preftune.stats.best_of_n import curve, expected_best, kl_upper_bound
from preftune.types import Demonstration


def main(s: argparse.Namespace) -> list[float]:
    """Choose, print one line per k, return the expected score of the best of 1, 2, … n."""
    prompts = read_prompts(s.prompts)
    generator = load_generator(s.model, GenerateSettings(max_new_tokens=s.max_new_tokens))
    scorer = load_scorer([s.reward])

    requests = plan(prompts, generator, n=s.n, seed=s.seed)  # prompt by prompt, n of each
    responses = generator.respond(requests)
    scores = scorer.score(
        [(request.prompt, r.messages) for request, r in zip(requests, responses, strict=True)]
    )

    best: list[Demonstration] = []
    gains = []
    for place, prompt in enumerate(prompts):
        own = [score or 0.0 for score in scores[place * s.n : (place + 1) * s.n]]
        winner = responses[place * s.n + own.index(max(own))]
        best.append(Demonstration(id=winner.id, prompt=prompt, response=winner.messages))
        gains.append(expected_best(own, own))  # of the best of every k up to n, unbiased

    points = curve(gains)
    for point in points:
        print(f"k {point.k:3d}  score {point.mean:.4f}  KL <= {kl_upper_bound(point.k):.4f} nats")
    if s.out:
        write_records(s.out, best, format="preftune")
    return [point.mean for point in points]


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model folder that answers")
    parser.add_argument("--reward", required=True, help="reward model folder that chooses")
    parser.add_argument("--prompts", required=True, help="any file that has prompts")
    parser.add_argument("--out", help="demonstrations to write, for preftune train sft")
    parser.add_argument("--n", type=int, default=8, help="responses per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
