"""Where projects, comparisons and what was said of them are kept: SQLite or PostgreSQL."""
