"""The process that generates for the server: one copy of each base, many requests at a time."""
