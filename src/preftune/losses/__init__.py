"""Losses as pure functions: tensors and floats in, one number per pair or token out, in nats."""
