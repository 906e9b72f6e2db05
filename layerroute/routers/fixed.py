"""Routers that read nothing: the stock model, and a program given by name."""

from layerroute.program import LayerProgram
from layerroute.routers.base import Evidence, PromptEvidence, RoutingDecision


class FullRouter:
    """Runs every block once: the stock model."""

    name = "full"
    evidence: Evidence = "none"

    def __init__(self, num_blocks: int) -> None:
        self._program = LayerProgram.identity(num_blocks)

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Decide for the identity program."""
        return RoutingDecision(self._program, self.name, "full depth asked for")


class StaticRouter:
    """Runs the same program for every prompt."""

    name = "static"
    evidence: Evidence = "none"

    def __init__(self, program: LayerProgram) -> None:
        self._program = program

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Decide for the program it was made with."""
        return RoutingDecision(self._program, self.name, f"program {self._program} asked for")
