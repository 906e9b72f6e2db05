"""Requests in, tokens out: queue, prefix cache, prefill, decode, grammar, sampling."""
