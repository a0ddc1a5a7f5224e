"""One core under every method: the log-probability, per token, of responses given prompts."""
