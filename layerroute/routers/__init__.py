"""Routers: evidence of a prompt in, one routing decision out."""
