"""One file per method (sft, reward, direct) over one run folder with exact resume."""
