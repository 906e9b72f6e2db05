"""Free-running answers through the engine, over worker processes on the CPU: what is served is what is scored."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from layerroute.chat.parser import AnswerParser, ParsedAnswer
from layerroute.engine.config import EngineConfig
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.engine import Engine
from layerroute.engine.loading import end_ids_of
from layerroute.engine.request import (
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
    GenerationRequest,
    OutputConstraint,
    ToolSpec,
)
from layerroute.errors import LayerRouteError
from layerroute.report import Scope, VisitCounts
from layerroute.routers.registry import make_router
from layerroute_training.errors import ConfigError
from layerroute_training.evaluation.tool_calls import CallScore, final_number, score_calls
from layerroute_training.workers import in_order

Task = Literal["tool_call", "gsm8k"]
CHUNK = 8  # questions that a worker takes at a time: neighbours share a prefix of the prompt


@dataclass(frozen=True)
class Condition:
    """One way of answering.

    Attributes:
        name: as reports show it, such as "routed" or "full".
        adapter: bundle folder whose LoRA and gates are used; "none" for the bare backbone.
        router: router spec, such as "gates", "full" or "static:0-7,9-23".
        programs: program text of every question by its step, instead of the router; for baselines.
        grammar: whether calls are constrained, as the chat model constrains them under `tool_choice="auto"`.
        scope: tokens that the program governs.
    """

    name: str
    adapter: str
    router: str = "gates"
    programs: Mapping[int, str] = field(default_factory=dict)
    grammar: bool = True
    scope: Scope = "generation"


@dataclass(frozen=True)
class Question:
    """One step to answer: its index, prompt and reference ids, the JSON text of the tools shown, a token limit."""

    step: int
    task: Task
    prompt_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    tools: str | None
    max_tokens: int


@dataclass(frozen=True)
class Answered:
    """What an answer came to: `right` for the task, the calls' score (tool calls only), the visits of its tokens."""

    right: bool
    calls: CallScore | None
    visits: VisitCounts


@dataclass(frozen=True)
class Result:
    """The answers of one question by the index of their condition, or why it has none."""

    step: int
    answers: Mapping[int, Answered] = field(default_factory=dict)
    left_out: str | None = None


def answer_all(
    config: EngineConfig,
    conditions: Sequence[Condition],
    questions: Sequence[Question],
    *,
    processes: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Answer every question under every condition, greedily.

    Args:
        config: the engine's; each condition replaces its adapter.
        conditions: ways of answering; a question is left out of all if one of them cannot answer it. GSM8K questions
            show no tools, so conditions without grammar skip them.
        questions: neighbours that share a prefix are cheapest.
        processes: 1 answers here; more start that many, each with one thread and engines of its own.
        progress: told how many questions more are done.

    Raises:
        ConfigError: several processes on a GPU.
        LayerRouteError: a model, bundle or router that cannot be used.
    """
    chunks = [questions[i : i + CHUNK] for i in range(0, len(questions), CHUNK)]
    if processes == 1:
        with Answerer(config, conditions) as answerer:
            return _collect((answerer.answer_chunk(chunk) for chunk in chunks), progress)
    if torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else config.device).type == "cuda":
        raise ConfigError(f"{processes} processes cannot share a GPU: use one process, or the device 'cpu'")
    with in_order(_answering, (config, tuple(conditions)), chunks, processes) as results:
        return _collect(results, progress)


class Answerer:
    """Engines for some conditions, one per adapter. Use as a context manager."""

    def __init__(self, config: EngineConfig, conditions: Sequence[Condition]) -> None:
        """Load the engines, so that what fails from here on is a question's fault.

        Raises:
            LayerRouteError: a model, bundle or router that cannot be used.
        """
        self._conditions = conditions
        self._engines: dict[str, Engine] = {}
        for condition in conditions:
            if condition.adapter not in self._engines:
                self._engines[condition.adapter] = Engine(replace(config, adapter=condition.adapter))
            runner = self._engines[condition.adapter].load()
            make_router(condition.router, runner.shape.num_blocks, runner.bundle)

    def __enter__(self) -> "Answerer":
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.close()

    def answer_chunk(self, questions: Sequence[Question]) -> list[Result]:
        """Answer some questions."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Result:
        reference = parse_ids(next(iter(self._engines.values())), question.reference_ids)
        if question.task == "tool_call" and (reference.invalid_tool_calls or not reference.tool_calls):
            return Result(question.step, left_out="the reference's calls cannot be read")
        if question.task == "gsm8k" and final_number(reference.content) is None:
            return Result(question.step, left_out="the reference states no number")
        try:
            return Result(
                question.step,
                {
                    i: self._run(question, condition, reference)
                    for i, condition in enumerate(self._conditions)
                    if condition.grammar or question.task == "tool_call"
                },
            )
        except LayerRouteError as error:
            return Result(question.step, left_out=str(error))

    def _run(self, question: Question, condition: Condition, reference: ParsedAnswer) -> Answered:
        engine = self._engines[condition.adapter]
        request = GenerationRequest(
            prompt_ids=question.prompt_ids,
            max_tokens=question.max_tokens,
            router=condition.router,
            program=condition.programs.get(question.step),
            scope=condition.scope,
            constraint=constraint_of(question.tools) if condition.grammar else None,
        )
        generation = engine.submit(request)
        parser = AnswerParser(engine.tokenizer)
        for delta in generation:
            parser.feed(delta)
        answer, visits = parser.finish(), generation.result().report.decode
        if question.task == "tool_call":
            score = score_calls(answer, reference)
            return Answered(score.exact, score, visits)
        return Answered(final_number(answer.content) == final_number(reference.content), None, visits)


def constraint_of(tools: str | None) -> OutputConstraint:
    """The constraint that the chat model sends for these tools (JSON text of an OpenAI list) and a free choice."""
    functions = [tool.get("function", tool) for tool in json.loads(tools or "[]")]
    empty = {"type": "object", "properties": {}}
    specs = tuple(
        ToolSpec(function["name"], json.dumps(function.get("parameters") or empty, ensure_ascii=False))
        for function in functions
    )
    return OutputConstraint(tools=specs, tool_choice="auto" if specs else "none")


def parse_ids(engine: Engine, ids: Sequence[int]) -> ParsedAnswer:
    """Read an answer that is given as token ids."""
    tokenizer = engine.tokenizer
    added = tokenizer.get_added_vocab()
    markers = frozenset(added[text] for text in (TOOL_CALL_OPEN, TOOL_CALL_CLOSE) if text in added)
    detokenizer = Detokenizer(tokenizer, (), markers, end_ids_of(engine.folder, tokenizer))
    parser = AnswerParser(tokenizer)
    for delta in [delta for token in ids for delta in detokenizer.add(token)] + detokenizer.flush():
        parser.feed(delta)
    return parser.finish()


def _collect(chunks: Iterator[list[Result]], progress: Callable[[int], None]) -> list[Result]:
    results: list[Result] = []
    for chunk in chunks:
        results += chunk
        progress(len(chunk))
    return results


def _answering(config: EngineConfig, conditions: Sequence[Condition]) -> Callable[[Sequence[Question]], list[Result]]:
    torch.set_num_threads(1)
    return Answerer(config, conditions).answer_chunk
