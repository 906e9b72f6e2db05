"""EngineConfig: everything that decides which engine answers; equal configurations share one engine."""

from dataclasses import dataclass

from layerroute.backbone.config import EMBEDDED
from layerroute.options import EngineOptions, read


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What to load and where to run it.

    Attributes:
        model: "embedded", a local folder, or a hub id such as "Qwen/Qwen2.5-0.5B-Instruct".
        adapter: bundle folder; "none" for the bare backbone; None for the model's own bundle if it ships one.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 on CUDA, float32 on CPU), "float32", "bfloat16" or "float16".
        context_window: most tokens of prompt and answer together, or None for what the checkpoint allows.
        prefix_slots: conversations whose KV is kept for reuse, least recently used first out.
        max_batch_size: most requests that decode together, as rows of batched steps, each with a KV cache of its own.
            1 runs one request after the other, on the backend for single rows, whose sums round differently.
        fast_forward: whether tokens that a grammar leaves no choice about are fed together, undrawn. Without it the
            model draws each token of the same text, and may spell it in other tokens.
    """

    model: str = EMBEDDED
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    context_window: int | None = None
    prefix_slots: int = 2
    max_batch_size: int = 1
    fast_forward: bool = True

    def __post_init__(self) -> None:
        read(EngineOptions, {name: getattr(self, name) for name in EngineOptions.model_fields})

    @property
    def conversations(self) -> int:
        """How many KV caches are held: every row needs one."""
        return max(1, self.prefix_slots, self.max_batch_size)
