"""An engine over a named shape with random weights. Its answers are noise that a grammar can hold to a form."""

from functools import cached_property

from transformers import PreTrainedTokenizerBase

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import select_stepper
from layerroute.backbone.weights import random_weights
from layerroute.benchmark.shapes import SHAPES
from layerroute.benchmark.words import tokenizer_for
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.loading import resolve_device, resolve_dtype
from layerroute.engine.request import TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from layerroute.engine.runner import Runner, Vocabulary
from layerroute.errors import RequestError


class ShapeEngine(Engine):
    """The engine of a configuration whose `model` is one of `SHAPES`; equal shapes get equal weights.

    Raises:
        RequestError: an unknown shape.
    """

    def __init__(self, config: EngineConfig) -> None:
        if config.model not in SHAPES:
            raise RequestError(f"unknown shape {config.model!r}: use one of {', '.join(SHAPES)}")
        super().__init__(config)

    @cached_property
    def backbone_config(self) -> BackboneConfig:
        """Sizes of the shape."""
        return SHAPES[self.config.model]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one that `tokenizer_for` makes up."""
        return tokenizer_for(self.backbone_config.vocab_size)

    def _build_runner(self) -> Runner:
        device = resolve_device(self.config.device)
        weights = random_weights(self.backbone_config, device, resolve_dtype(self.config.dtype, device))
        backbone = Backbone(self.backbone_config, weights)
        ids = self.tokenizer.get_vocab()
        return Runner(
            f"{self.config.model} (random weights)",
            backbone,
            select_stepper(backbone),
            self.tokenizer,
            Vocabulary(frozenset([ids["<|im_end|>"]]), ids[TOOL_CALL_OPEN], ids[TOOL_CALL_CLOSE]),
            None,
            self.context_window,
            self.config.conversations,
            self.config.fast_forward,
        )
