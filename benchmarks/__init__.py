"""Preftune side by side with TRL: the same weights, pairs and tokens, one process at a time."""
