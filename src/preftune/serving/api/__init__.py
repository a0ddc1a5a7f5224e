"""The OpenAI-shaped API under /v1: files, jobs, models, chat, graders."""
