"""Stands in for the integration: a chat model that gives back what it is told, at once."""

from types import SimpleNamespace


class LayerRouteChatModel:
    def __init__(self, **options):
        self.options = options

    def stream(self, messages):
        yield SimpleNamespace(text=f"You said {messages[-1].content}.", response_metadata={})
