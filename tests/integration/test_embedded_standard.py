"""LangChain's standard tests against the embedded model, greedy and routed by its own gates: all of them pass."""

from typing import Any

import test_standard


class _Embedded:
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"device": "cpu", "max_tokens": 128}


class TestEmbedded(_Embedded, test_standard.TestIntegration):
    pass


class TestEmbeddedJsonSchema(_Embedded, test_standard.TestIntegrationJsonSchema):
    """Once more, with structured output by response format instead of a forced tool call."""
