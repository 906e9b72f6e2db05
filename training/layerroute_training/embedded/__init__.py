"""The embedded backbone's recipe: tokenizer, conversations, prepared token files, training."""
