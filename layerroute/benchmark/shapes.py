"""Shapes that can be timed without their checkpoint, from the config.json of each Qwen2.5 Instruct model."""

from layerroute.backbone.config import BackboneConfig


def _qwen25(
    hidden: int, intermediate: int, blocks: int, heads: int, kv_heads: int, vocabulary: int, tied: bool
) -> BackboneConfig:
    return BackboneConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_blocks=blocks,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        rms_eps=1e-6,
        rope_theta=1e6,
        max_positions=32768,
        tied=tied,
    )


SHAPES = {
    "Qwen2.5-0.5B": _qwen25(896, 4864, 24, 14, 2, 151936, tied=True),
    "Qwen2.5-1.5B": _qwen25(1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen2.5-3B": _qwen25(2048, 11008, 36, 16, 2, 151936, tied=True),
    "Qwen2.5-7B": _qwen25(3584, 18944, 28, 28, 4, 152064, tied=False),
}
"""Shapes that can be timed with random weights."""
