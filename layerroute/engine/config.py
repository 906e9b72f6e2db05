"""EngineConfig: everything that decides which engine answers; equal configurations share one engine."""

from dataclasses import dataclass

from layerroute.backbone.config import EMBEDDED


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
    """

    model: str = EMBEDDED
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    context_window: int | None = None
    prefix_slots: int = 2
