"""What goes into the engine and what comes out: requests, constraints, deltas, results."""

from dataclasses import dataclass, field, replace
from typing import Literal

from layerroute.engine.schemas import PreparedSchema, prepare_schema
from layerroute.errors import RequestError, shown
from layerroute.options import CallOptions, read
from layerroute.report import Scope, StepReport

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]

TOOL_CALL_OPEN = "<tool_call>"
TOOL_CALL_CLOSE = "</tool_call>"
"""The two marker tokens around a call (Hermes format, as in Qwen2.5)."""

CALL_SPACE = " \t\r\n"
"""White space that is markup, and no content, where nothing else stands between calls, or before the first."""


def _take(made: object, *names: str) -> None:
    """Check fields that are options, and hold them as Python's own numbers: arithmetic with others may fail."""
    checked = read(CallOptions, {name: getattr(made, name) for name in names})
    for name in names:
        object.__setattr__(made, name, getattr(checked, name))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy.

    Attributes:
        temperature: 0 for greedy, else the divisor of the logits.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches top_p.
        seed: seed of this request's own generator; None draws one from the operating system.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _take(self, "temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool offered to the model: its name and the JSON text of its parameters' JSON schema."""

    name: str
    parameters: str

    def prepared(self) -> PreparedSchema:
        """The schema, ready for grammars and checks; made once per text.

        Raises:
            ToolSchemaError: what is wrong with it, and at which field.
        """
        return prepare_schema(self.parameters, f"tool {self.name!r}", arguments=True)


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """What the answer may be.

    White space, digits of numbers and calls are bounded; arrays and text by `maxItems` and `maxLength` of their schema,
    and by the request's `max_tokens`.

    Attributes:
        tools: tools that may be called. Empty: no call is possible.
        tool_choice: "auto" (text or calls), "required" (at least one call), "none" (no call).
        parallel: whether one answer may hold several calls; none is made twice.
        max_calls: most calls in one answer that may hold several.
        response_schema: JSON text of a JSON schema the text answer must satisfy, or None for free text.
            With tools and "auto" the answer is calls if the model, left free, would begin with one; else a document.
    """

    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "required", "none"] = "auto"
    parallel: bool = True
    response_schema: str | None = None
    max_calls: int = 8

    def __post_init__(self) -> None:
        if self.tool_choice == "required" and not self.tools:
            raise RequestError("tool_choice demands a call but no tool was offered: bind at least one tool")
        if self.tool_choice == "required" and self.response_schema is not None:
            raise RequestError(
                "a call is demanded and so is a document of a schema, and one answer cannot be both: leave out the "
                "response format, or use tool_choice 'auto', which allows either"
            )
        if self.max_calls < 1:
            raise RequestError(
                f"an answer may hold at least one call, not {self.max_calls}: to forbid calls, set tool_choice='none'"
            )

    @property
    def alternatives(self) -> tuple["OutputConstraint", ...]:
        """Calls alone and a document alone, if either may come; else this constraint."""
        if not self.tools or self.tool_choice != "auto" or self.response_schema is None:
            return (self,)
        return replace(self, tool_choice="required", response_schema=None), replace(self, tool_choice="none")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One step to run.

    Attributes:
        prompt_ids: token ids of the rendered prompt, generation prompt included.
        max_tokens: most tokens to generate, or None for what the window leaves.
        stop: strings that end the answer where its content holds them, and are cut off it; calls hold no content.
        router: router spec ("gates", "full", "static:...", "random:...", "length:..."), or None for the
            engine's default: the bundle's gates if there is one, else "full".
        program: text form of a program that overrides the router, or None.
        scope: tokens that the program governs.
        constraint: what the answer may be, or None for free text without tool calls being constrained.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    router: str | None = None
    program: str | None = None
    scope: Scope = "generation"
    constraint: OutputConstraint | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError("the prompt is empty: send at least one message")
        if isinstance(self.stop, str):
            raise RequestError(f"stop must be a tuple of strings, not {shown(self.stop)}: put it into one")
        read(CallOptions, {"stop": self.stop})
        _take(self, "max_tokens", "router", "program", "scope")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer as it appears: text that will not change any more, and the tokens behind it.

    The markers `<tool_call>` and `</tool_call>` always come as deltas of their own (one token each), so a
    reader can tell a real call from text that merely spells the marker.
    """

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The whole answer.

    Attributes:
        token_ids: what was generated, the end token included.
        text: without the end token and a stop string.
        finish_reason, report: as they stand.
        stop_string: the stop string that ended the answer, or None if none did.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    report: StepReport
    stop_string: str | None = None
