"""Qwen2 forward over a layer program, its weights, its KV cache and its backends."""
