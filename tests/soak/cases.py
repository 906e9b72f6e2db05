"""What is asked in a soak: calls of every kind whose answers are known from a quiet run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable

from langchain_layerroute import LayerRouteChatModel


def _tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    _tool("calculate", "Evaluate an arithmetic expression.", expression={"type": "string"}),
    _tool("get_order", "Look up an order.", order_id={"type": "string"}),
    _tool("set_alarm", "Set an alarm.", hour={"type": "integer"}, loud={"type": "boolean"}),
]
SYSTEM = SystemMessage("You are a helpful assistant at a front desk.")
_PLACE = {
    "title": "Place",
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "sunny": {"type": "boolean"}},
    "required": ["city", "sunny"],
}
_SHAPES: dict[str, Callable[[LayerRouteChatModel], Runnable[Any, Any]]] = {
    "text": lambda model: model,
    "auto": lambda model: model.bind_tools(TOOLS),
    "any": lambda model: model.bind_tools(TOOLS, tool_choice="any"),
    "named": lambda model: model.bind_tools(TOOLS, tool_choice="calculate"),
    "json": lambda model: model.bind(response_format=_PLACE),
}
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"router": "full"},
    {"program": "0-9,14-23"},
    {"router": "random:0.2:3"},
    {"program": "0-11,10-23", "scope": "sequence"},
    {"temperature": 0.9, "top_p": 0.9, "seed": 5},
    {"temperature": 1.3, "top_k": 40, "seed": 6},
    {"stop": ["e", ". "]},
    {"max_tokens": 7},
)


@dataclass(frozen=True)
class Case:
    """One call: the shape of its answer, its conversation and options."""

    shape: str
    messages: tuple[BaseMessage, ...]
    options: dict[str, Any] = field(hash=False)

    def bind(self, model: LayerRouteChatModel) -> Runnable[Any, AIMessage]:
        """What is to be invoked with `messages`."""
        return _SHAPES[self.shape](model).bind(**{"max_tokens": 24, **self.options})


def cases() -> list[Case]:
    """Every shape with every option, over a handful of conversations that share beginnings."""
    call = {"name": "calculate", "args": {"expression": "12 * 7"}, "id": "call_1"}
    begun = (SYSTEM, HumanMessage("What is 12 * 7?"))
    conversations = (
        begun,
        (*begun, AIMessage("", tool_calls=[call]), ToolMessage("84", tool_call_id="call_1")),
        (SYSTEM, HumanMessage("Look up order A-1042, please.")),
        (HumanMessage("Hello! " + "I have been waiting here for quite a while. " * 6),),
    )
    return [
        Case(shape, conversations[(index + turn) % len(conversations)], options)
        for turn, shape in enumerate(_SHAPES)
        for index, options in enumerate(_OPTIONS)
    ]


def spoken(message: BaseMessage) -> tuple[Any, ...]:
    """What of an answer has to be equal: its text, its calls, and why it ended."""
    assert isinstance(message, AIMessage)
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    broken = [call["name"] for call in message.invalid_tool_calls]  # how they are spelled differs where it streams
    return str(message.text), calls, broken, message.response_metadata["finish_reason"]
