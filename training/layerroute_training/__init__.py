"""Training: corpora, steps, objectives, evaluation, and the recipe of the embedded backbone."""
