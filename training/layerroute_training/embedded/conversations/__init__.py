"""Generated tool-use conversations: seeded, pure Python, with true or plausible results."""
