"""A chat model that says what it is told to, with a step report on every answer as `LayerRouteChatModel` gives it."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from layerroute.report import StepKind, StepReport, Timings, VisitCounts


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def report(kind: StepKind) -> StepReport:
    return StepReport(
        model="scripted",
        device="cpu",
        dtype="float32",
        backend="none",
        router="full",
        reason="a script",
        scope="generation",
        kind=kind,
        num_blocks=2,
        program="0-1",
        nominal_program="0-1",
        visits_per_block=(1, 1),
        prefill=VisitCounts(executed=20),
        decode=VisitCounts(executed=4),
        prompt_tokens=10,
        cached_tokens=0,
        generated_tokens=3,
        fast_forwarded_tokens=0,
        decode_steps=2,
        flops_full=100,
        flops_realised=100,
        bytes_full=100,
        bytes_realised=100,
        milliseconds=Timings(prefill=1.0, decode=2.0),
        finish_reason="stop",
    )


class ScriptedChat(BaseChatModel):
    """Answers with each turn of the script in order, the last one again and again.

    A turn is a text, or a list of calls that one step makes.
    """

    script: list[Any]
    prompts: list[list[BaseMessage]] = Field(default_factory=list)
    offered: list[list[str]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        self.offered.append([tool.name for tool in tools])
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        turn = self.script[min(len(self.prompts), len(self.script) - 1)]
        self.prompts.append(list(messages))
        if isinstance(turn, str):
            message, kind = AIMessage(turn), StepKind.PLANNING
        else:
            calls = [
                {"name": item["name"], "args": item["arguments"], "id": f"call-{len(self.prompts)}-{number}"}
                for number, item in enumerate(turn)
            ]
            message, kind = AIMessage("", tool_calls=calls), StepKind.TOOL_CALL
        message.response_metadata = {"layerroute": report(kind).model_dump(mode="json")}
        return ChatResult(generations=[ChatGeneration(message=message)])
