"""LangChain's standard tests against the scripted engine."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from scripted import ScriptedEngine

from langchain_layerroute import LayerRouteChatModel


class _Scripted:
    @property
    def chat_model_class(self) -> type[LayerRouteChatModel]:
        return LayerRouteChatModel

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "embedded@full"


class TestUnit(_Scripted, ChatModelUnitTests):
    pass


class TestIntegration(_Scripted, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _engine(self) -> None:
        self.scripted_engine = ScriptedEngine()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": getattr(self, "scripted_engine", None) or ScriptedEngine()}

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = LayerRouteChatModel(**self.chat_model_params)
        model.invoke("Hello")
        if not stream:
            return model.invoke("Hello")
        chunks = list(model.stream("Hello"))
        return sum(chunks[1:], chunks[0])


class TestIntegrationJsonSchema(TestIntegration):
    """Once more, with structured output by response format instead of a forced tool call."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}
