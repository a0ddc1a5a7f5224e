"""A worker process that runs one fine-tuning job for the server."""
