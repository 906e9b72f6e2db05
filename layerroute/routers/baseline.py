"""Baselines that trained gates have to beat: the same skip rate at random, and the length of the prompt alone."""

import random

from layerroute.errors import RouterError
from layerroute.program import LayerProgram
from layerroute.routers.base import Evidence, PromptEvidence, RoutingDecision


class RandomRouter:
    """Skips each block but the first with the same probability. The same prompt and seed give the same program."""

    name = "random"
    evidence: Evidence = "none"

    def __init__(self, num_blocks: int, rate: float, seed: int = 0) -> None:
        if not 0.0 <= rate <= 1.0:
            raise RouterError(f"the random router's rate is the share of blocks to skip, 0 to 1, not {rate}")
        self._num_blocks = num_blocks
        self._rate = rate
        self._seed = seed

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Draw a program from the seed and the prompt's digest."""
        draws = random.Random(f"{self._seed}:{prompt.digest}")
        skipped = [block for block in range(1, self._num_blocks) if draws.random() < self._rate]
        program = LayerProgram.skipping(skipped, self._num_blocks)
        reason = f"skips {len(skipped)} of {self._num_blocks} blocks at random (rate {self._rate:g})"
        return RoutingDecision(program, self.name, reason)


class LengthRouter:
    """Runs a given program for prompts of at most `max_tokens` tokens, and full depth for longer ones."""

    name = "length"
    evidence: Evidence = "none"

    def __init__(self, max_tokens: int, program: LayerProgram) -> None:
        if max_tokens < 0:
            raise RouterError(f"the length router's limit is a number of prompt tokens, not {max_tokens}")
        self._max_tokens = max_tokens
        self._program = program

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Decide from the number of prompt tokens."""
        if prompt.num_tokens <= self._max_tokens:
            reason = f"prompt of {prompt.num_tokens} tokens, at most {self._max_tokens}"
            return RoutingDecision(self._program, self.name, reason)
        reason = f"prompt of {prompt.num_tokens} tokens, more than {self._max_tokens}"
        return RoutingDecision(LayerProgram.identity(self._program.num_blocks), self.name, reason)
