"""preftune: preference tuning of language models, from comparisons to a model proven better."""

__version__ = "0.1.0"
