"""What a decode step, a prompt and an answer cost on this machine, and what `transformers` takes for the same."""

from layerroute.benchmark.shapes import SHAPES
from layerroute.benchmark.suite import run

__all__ = ["SHAPES", "run"]
