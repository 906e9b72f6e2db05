"""ScriptedEngine: a TextEngine that plays scripted answers through real generations, deltas and detokenising."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from waiting import until

from layerroute.engine.config import EngineConfig
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.generation import Generation
from layerroute.engine.request import FinishReason, GenerationRequest, GenerationResult
from layerroute.errors import ContextWindowError, RouterError
from layerroute.program import LayerProgram
from layerroute.report import StepKind, StepReport, Timings, VisitCounts

NUM_BLOCKS = 24
TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")

Script = Callable[[GenerationRequest, str], str]
"""From a request and the text of its prompt to the text of the answer, without the end token."""


def saying(*answers: str) -> Script:
    """A script that gives the answers in turn, the last one for ever."""
    left = list(answers)
    return lambda request, prompt: left.pop(0) if len(left) > 1 else left[0]


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call as Qwen2.5 writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


class ScriptedEngine:
    """Plays a script; every request has a thread of its own, so requests interleave.

    With `pauses_after` a request makes so many tokens and goes on when it is cancelled, however slow its reader is.

    Attributes:
        requests, generations: what was asked for, and the handles given out.
        steps: tokens made so far, over all requests.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase = TOKENIZER,
        context_window: int = 4096,
        pauses_after: int | None = None,
        program: str = "0-7,9-23",
    ) -> None:
        self.config = EngineConfig(context_window=context_window)
        self.model_name = "scripted"
        self.tokenizer = tokenizer
        self.context_window = context_window
        self.requests: list[GenerationRequest] = []
        self.generations: list[Generation] = []
        self.steps = 0
        self._script = script or obliging
        self._pauses_after = pauses_after
        self._program = program
        self._conversations: list[tuple[int, ...]] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, request: GenerationRequest) -> Generation:
        if len(request.prompt_ids) >= self.context_window:
            raise ContextWindowError(f"the prompt has {len(request.prompt_ids)} tokens: shorten the conversation")
        if request.router == "crystal ball":
            raise RouterError("unknown router 'crystal ball': use gates or full")
        self.requests.append(request)
        generation = Generation(request)
        self.generations.append(generation)
        thread = threading.Thread(target=self._play, args=(request, generation), daemon=True)
        self._threads.append(thread)
        thread.start()
        return generation

    def join(self) -> None:
        """Wait until every request has ended, whatever became of its consumer."""
        for thread in self._threads:
            thread.join()

    def prompt_text(self, index: int = -1) -> str:
        """The prompt of a request, as text."""
        return self.tokenizer.decode(self.requests[index].prompt_ids)

    def _play(self, request: GenerationRequest, generation: Generation) -> None:
        try:
            generation.finish(self._answer(request, generation))
        except BaseException as error:
            generation.fail(error)

    def _answer(self, request: GenerationRequest, generation: Generation) -> GenerationResult:
        script = self._script(request, self.tokenizer.decode(request.prompt_ids))
        end_id = self.tokenizer.eos_token_id
        markers = frozenset(self.tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"]))
        detokenizer = Detokenizer(self.tokenizer, request.stop, markers, frozenset([end_id]))
        planned = [*self.tokenizer.encode(script, add_special_tokens=False), end_id]
        made: list[int] = []
        text = ""
        finish: FinishReason = "tool_calls" if planned[0] in markers or "<tool_call>" in script else "stop"
        for token_id in planned:
            if len(made) == self._pauses_after:
                until(lambda: generation.cancelled)
            if generation.cancelled:
                finish = "cancelled"
                break
            if request.max_tokens is not None and len(made) == request.max_tokens:
                finish = "length"
                break
            with self._lock:
                self.steps += 1
            made.append(token_id)
            for delta in detokenizer.add(token_id):
                text += delta.text
                generation.push(delta)
            if detokenizer.stop_string is not None:
                finish = "stop"
                break
        for delta in detokenizer.flush():
            text += delta.text
            generation.push(delta)
        stop_string = detokenizer.stop_string
        if stop_string is not None and finish == "length":
            finish = "stop"
        return GenerationResult(tuple(made), text, finish, self._report(request, made, finish), stop_string)

    def _report(self, request: GenerationRequest, made: list[int], finish: FinishReason) -> StepReport:
        program = LayerProgram.parse(self._program_text(request), NUM_BLOCKS)
        prompt = len(request.prompt_ids)
        cached = self._cached(request.prompt_ids, made)
        fed = max(len(made) - 1, 0)
        call_id = self.tokenizer.convert_tokens_to_ids("<tool_call>")
        return StepReport(
            model=self.model_name,
            device="cpu",
            dtype="float32",
            backend="scripted",
            router=request.router or "gates",
            reason="scripted",
            scope=request.scope,
            kind=StepKind.TOOL_CALL if call_id in made else StepKind.PLANNING,
            predicted_kind=StepKind.PLANNING,
            tool_call_probability=0.25,
            num_blocks=NUM_BLOCKS,
            program=str(program),
            nominal_program=str(program),
            visits_per_block=program.visits_per_block,
            prefill=VisitCounts(executed=(prompt - cached) * NUM_BLOCKS),
            decode=VisitCounts(executed=fed * program.num_visits, skipped=fed * len(program.skipped)),
            prompt_tokens=prompt,
            cached_tokens=cached,
            generated_tokens=len(made),
            fast_forwarded_tokens=0,
            decode_steps=fed,
            flops_full=1000 * len(made),
            flops_realised=900 * len(made),
            bytes_full=1000,
            bytes_realised=900,
            milliseconds=Timings(prefill=1.5, decode=0.5 * len(made)),
            finish_reason=finish,
        )

    def _program_text(self, request: GenerationRequest) -> str:
        if request.program is not None:
            return request.program
        if request.router == "full":
            return "all"
        static = (request.router or "").partition("static:")[2]
        return static or self._program

    def _cached(self, prompt_ids: tuple[int, ...], made: list[int]) -> int:
        with self._lock:
            shared = max((_common_prefix(kept, prompt_ids) for kept in self._conversations), default=0)
            self._conversations.append((*prompt_ids, *made))
        return min(shared, len(prompt_ids) - 1)


def _common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def obliging(request: GenerationRequest, prompt: str) -> str:
    """Do what the constraint demands, and call a weather tool when asked for the weather."""
    constraint = request.constraint
    question = prompt.rsplit("<|im_start|>user\n", 1)[-1].split("<|im_end|>")[0]
    if constraint is not None:
        wanted = constraint.tool_choice == "auto" and "weather" in question and "<tool_response>" not in question
        if constraint.tools and (constraint.tool_choice == "required" or wanted):
            tool = constraint.tools[0]
            return call_text(tool.name, example(json.loads(tool.parameters), question))
        if constraint.response_schema is not None:
            schema = json.loads(constraint.response_schema)
            joke = {"setup": "Why did the cat sit on the mat?", "punchline": "It was purrfect."}
            return json.dumps(example(schema, question) if "properties" in schema else joke, ensure_ascii=False)
    return "Hello there! I hope that you are well. 你好 🚀 How can I help you today?"


def example(schema: dict[str, Any], question: str, root: dict[str, Any] | None = None) -> Any:
    """A value of a schema; numbers and quoted strings are taken from the question."""
    root = root or schema
    if "$ref" in schema:
        return example(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], question, root)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], question, root)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: example(part, question, root) for name, part in schema.get("properties", {}).items()}
        case "integer" | "number":
            numbers = re.findall(r"\d+", question)
            return int(numbers[0]) if numbers else 3
        case "string":
            quoted = re.findall(r"'([^']+)'", question)
            return quoted[0] if quoted else "cats"
        case "boolean":
            return True
        case "array":
            return [example(schema["items"], question, root)]
    return None
