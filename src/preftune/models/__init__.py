"""Models: load, make, adapt and fingerprint them, and turn chats into exact tokens."""
