"""Judges that are language models: asked in both orders, parsed strictly, qualified, watched."""
