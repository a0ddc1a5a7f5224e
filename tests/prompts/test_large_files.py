"""Long prompts are never all in memory at once: not while deduplicating, not while selecting."""

import random
import subprocess
import sys
from pathlib import Path

from tests.prompts.logs import prompts_in

from preftune.records import encode
from preftune.types import make_prompt, user

PROMPTS, BYTES = 2_500, 10_000
MOST_MIB = 30  # more than the process holds before; all the prompts at once would add 24 to the 20
PROGRAM = """
import sys
from pathlib import Path
import datasketch
from preftune.prompts.dedupe import dedupe_file
from preftune.prompts.select import SelectSettings, select_file

def held():
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024

source, unique, label = map(Path, sys.argv[1:])
before = held()
dedupe_file(source, unique, near=0.8)
select_file(unique, label, SelectSettings(n=50, held_out=0.1))
print(held() - before)
"""


def test_dedupe_and_select_hold_no_prompts_in_memory(tmp_path: Path) -> None:
    rng = random.Random(0)
    pages = [" ".join(f"w{rng.randrange(5_000)}" for _ in range(BYTES // 60)) for _ in range(200)]
    text = ""
    with (tmp_path / "p.jsonl").open("wb") as file:
        for number in range(PROMPTS):
            near = number % 10 == 9
            text = f"{text} pls" if near else " ".join(rng.choices(pages, k=10))
            file.write(encode(make_prompt(user(text))))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("p", "unique", "label")]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) < MOST_MIB
    assert len(prompts_in(Path(paths[1]))) == PROMPTS * 9 // 10
