"""What a benchmark times through LangChain: a token's way to a callback, and an agent's turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, StructuredTool

from langchain_layerroute.callbacks import ComputeReportHandler
from langchain_layerroute.chat_models import LayerRouteChatModel
from langchain_layerroute.front_desk import FRONT_DESK_PROMPT, TODAY, FrontDeskTools
from layerroute.benchmark.shape_engine import ShapeEngine
from layerroute.benchmark.whole_engine import Read, WholeEngine
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.errors import LayerRouteError
from layerroute.parts import INTERRUPTED, Parts
from layerroute.program import LayerProgram
from layerroute.report import StepReport

TURNS = 7
TASK = 'Put "Quarterly planning with the whole Oslo team" on my calendar for 2026-11-24 at 15:30.'
_TOOL = "add_event"
_SKIPPED_SHARE = 7 / 24
"""Of blocks, where no gates are trained: what the shipped gates skip on tool calls (29 %)."""


class _Arrivals(BaseCallbackHandler):
    run_inline = True

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        if token:  # the last chunk carries the accounting and no text
            self._arrived()


def stream(engine: WholeEngine, program: LayerProgram, context: int, num_tokens: int) -> Read:
    """Stream an answer through `LayerRouteChatModel`, to a prompt of about `context` tokens; a callback hears of it."""
    model = LayerRouteChatModel(engine=engine, program=str(program), max_tokens=num_tokens)
    around = model.get_num_tokens_from_messages([HumanMessage("")])
    prompt = " one" * max(1, context - around)
    return lambda arrived: [None for _ in model.stream(prompt, {"callbacks": [_Arrivals(arrived)]})]


@dataclass(frozen=True, slots=True)
class TurnTime:
    """A tool-call turn of the front-desk agent through `create_agent`: the call, and the tool's result; medians.

    Attributes:
        turns: how many were timed.
        program: of generated tokens; router: what chose it; fast_forward: whether forced tokens were fed together.
        turn_ms: from the user's message, with nothing cached, to the tool's result in the agent's state.
        prefill_ms, decode_ms: of that, as the step's report has it.
        fast_forwarded_tokens: of the generated ones; decode_steps: passes that fed them all.
        visits_executed, visits_skipped: of blocks, by generated tokens, as the backbone counted them.
        call: the arguments in the last of the turns.
    """

    turns: int
    router: str
    program: str
    fast_forward: bool
    turn_ms: float
    prefill_ms: float
    decode_ms: float
    prompt_tokens: int
    generated_tokens: int
    fast_forwarded_tokens: int
    decode_steps: int
    visits_executed: int
    visits_skipped: int
    call: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AgentTurns:
    """What became of the four kinds of turns.

    Attributes:
        turns: of the kinds that could be timed.
        failed: the other kinds, and why. One that was interrupted has what was timed until then among the turns, too.
    """

    turns: tuple[TurnTime, ...]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"agent_turns": [turn.to_dict() for turn in self.turns], "failed": self.failed}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of turn: its name, its model, and whether that feeds forced tokens together."""

    name: str
    model: LayerRouteChatModel
    fast_forward: bool


def time_agent_turns(
    model: str = "embedded", shape: str | None = None, device: str = "auto", dtype: str = "auto", turns: int = TURNS
) -> AgentTurns:
    """Time the same turn with routing and fast-forward, with one of them, and with neither, in turns.

    A kind that fails leaves the others alone, and Ctrl-C ends the run with what is timed until then.

    Args:
        model: "embedded", a checkpoint folder or a hub id; not looked at where a shape is named.
        shape: a named shape with random weights. Its call is forced, its arguments are noise of a bounded length, and
            its program is fixed, with the share of blocks left out that the shipped gates skip on tool calls.
        device, dtype: as the engine names them.
        turns: timed turns of each kind.

    Raises:
        ImportError: langchain is not installed.
        LayerRouteError: the model cannot be used.
    """
    _check_langchain()
    engines = {
        forward: (Engine if shape is None else ShapeEngine)(
            EngineConfig(model=shape or model, device=device, dtype=dtype, fast_forward=forward)
        )
        for forward in (True, False)
    }
    parts, numbers = Parts(), count(100)
    try:
        kinds = _kinds(engines, has_gates=shape is None)
        timed: dict[str, list[_Turn]] = {kind.name: [] for kind in kinds}
        for run in range(-2, turns):  # the first two compile, capture and warm up
            for kind in kinds:
                if kind.name not in parts.failed:
                    one = partial(_turn, kind.model, next(numbers), is_noise=shape is not None)
                    turn = parts.attempt(kind.name, one)
                    timed[kind.name] += [turn] if turn is not None and run >= 0 else []
    finally:
        for engine in engines.values():
            engine.close()
    broken = {name for name, why in parts.failed.items() if why != INTERRUPTED}
    whole = [kind for kind in kinds if timed[kind.name] and kind.name not in broken]
    found = tuple(_turn_time(kind.fast_forward, timed[kind.name]) for kind in whole)
    return AgentTurns(found, parts.failed)


def _check_langchain() -> None:
    try:
        import langchain.agents  # noqa: F401
    except ImportError as error:
        raise ImportError('an agent\'s turn needs langchain: pip install "layerroute[demo]"') from error


def _kinds(engines: Mapping[bool, Engine], *, has_gates: bool) -> list[_Kind]:
    """Routed and at full depth, each with and without fast-forward; the models are loaded."""
    for engine in engines.values():
        engine.load()
    routed: dict[str, Any] = {} if has_gates else {"program": _typical_program(engines[True])}
    return [
        _Kind(
            f"{name}, fast-forward {'on' if forward else 'off'}",
            LayerRouteChatModel(engine=engines[forward], max_tokens=256, **options),
            forward,
        )
        for name, options in (("routed", routed), ("full depth", {"router": "full"}))
        for forward in (True, False)
    ]


def _typical_program(engine: Engine) -> str:
    """All blocks but a run in the middle."""
    blocks = engine.backbone_config.num_blocks
    skipped = round(_SKIPPED_SHARE * blocks)
    first = (blocks - skipped) // 2
    return str(LayerProgram((*range(first), *range(first + skipped, blocks)), blocks))


_Turn = tuple[float, StepReport, dict[str, Any]]
"""Milliseconds of a turn, the report of its step, and the arguments of its call."""


def _turn(model: LayerRouteChatModel, number: int, *, is_noise: bool) -> _Turn:
    """One turn. The number comes first in the prompt: nothing is cached."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import wrap_model_call

    @wrap_model_call  # type: ignore[untyped-decorator]
    def with_choice(request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request.override(tool_choice=_TOOL, model_settings={"parallel_tool_calls": False}))

    with FrontDeskTools() as desk:
        tools = _bounded(desk.tools()) if is_noise else desk.tools()
        agent = create_agent(
            model, tools=tools, system_prompt=f"{number} {FRONT_DESK_PROMPT}", middleware=[with_choice]
        )
        desk.database.list_events(date=TODAY)  # opened and filled, as before any turn but the first
        reports = ComputeReportHandler()
        started = time.perf_counter()
        messages: list[Any] = []
        updates = agent.stream({"messages": [("user", TASK)]}, {"callbacks": [reports]}, stream_mode="updates")
        for update in updates:
            messages += [message for part in update.values() for message in part["messages"]]
            if "tools" in update:
                break
        elapsed_ms = 1e3 * (time.perf_counter() - started)
        updates.close()
    if len(messages) < 2 or len(reports.steps) != 1:
        raise LayerRouteError(f"the model did not call {_TOOL}: {str(messages)[:200]}")
    return elapsed_ms, reports.steps[0], messages[0].tool_calls[0]["args"]


def _bounded(tools: Sequence[BaseTool]) -> list[BaseTool]:
    """The tools, but an event's fields have a bounded length, since random weights would write on for ever."""
    text = {"type": "string", "minLength": 30, "maxLength": 60}
    digits = {"date": "^2026-[0-1][0-9]-[0-3][0-9]$", "time": "^[0-2][0-9]:[0-5][0-9]$"}
    schema = {
        "type": "object",
        "properties": {"title": text, **{name: {"type": "string", "pattern": form} for name, form in digits.items()}},
        "required": ["title", *digits],
    }
    event = StructuredTool.from_function(
        lambda **_: '{"ok": true}', name=_TOOL, description="Add a calendar event", args_schema=schema
    )
    return [event if tool.name == _TOOL else tool for tool in tools]


def _turn_time(forward: bool, timed: Sequence[_Turn]) -> TurnTime:
    report = timed[-1][1]

    def middle(number: Callable[[StepReport], int]) -> int:
        return statistics.median_low(number(step) for _, step, _ in timed)

    return TurnTime(
        turns=len(timed),
        router=report.router,
        program=report.program,
        fast_forward=forward,
        turn_ms=round(statistics.median(ms for ms, _, _ in timed), 2),
        prefill_ms=round(statistics.median(step.milliseconds.prefill for _, step, _ in timed), 2),
        decode_ms=round(statistics.median(step.milliseconds.decode for _, step, _ in timed), 2),
        prompt_tokens=middle(lambda step: step.prompt_tokens),
        generated_tokens=middle(lambda step: step.generated_tokens),
        fast_forwarded_tokens=middle(lambda step: step.fast_forwarded_tokens),
        decode_steps=middle(lambda step: step.decode_steps),
        visits_executed=middle(lambda step: step.decode.executed),
        visits_skipped=middle(lambda step: step.decode.skipped),
        call=timed[-1][2],
    )
