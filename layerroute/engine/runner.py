"""Runner: one request from prompt ids to answer and report, in one go or in parts. Runs on the engine's thread."""

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from layerroute.backbone.batch import BatchStepper, select_batch_stepper
from layerroute.backbone.model import Backbone
from layerroute.backbone.prompt import select_prompt_runner
from layerroute.backbone.stepper import Stepper
from layerroute.bundle import Bundle
from layerroute.engine.accounting import Meter, Stopwatch, executions
from layerroute.engine.decode import Answer, Decoder
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.generation import Generation
from layerroute.engine.grammar import GrammarFactory
from layerroute.engine.prefill import Prefill, Prefilled
from layerroute.engine.prefix_cache import PrefixCache
from layerroute.engine.request import FinishReason, GenerationRequest, GenerationResult
from layerroute.engine.token_loop import TokenLoops
from layerroute.errors import GenerationCancelledError
from layerroute.report import StepKind, StepReport
from layerroute.routers.base import Router
from layerroute.routers.registry import make_router


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens with a meaning of their own.

    Attributes:
        end_ids: tokens that end an answer.
        call_id, call_end_id: `<tool_call>` and `</tool_call>`, or None if the tokenizer has no such tokens.
    """

    end_ids: frozenset[int]
    call_id: int | None
    call_end_id: int | None

    @property
    def marker_ids(self) -> frozenset[int]:
        """The call markers that exist."""
        return frozenset(token for token in (self.call_id, self.call_end_id) if token is not None)


@dataclass(frozen=True, slots=True)
class Running:
    """A request whose prompt has run, and what makes and accounts for its answer."""

    request: GenerationRequest
    prompt: Prefilled
    decoder: Decoder
    watch: Stopwatch
    prefill: Meter
    decode: Meter


class Runner:
    """Runs requests over one backbone.

    Attributes:
        model_name: shown in reports.
        bundle: trained routers, or None.
        stepper: steps of single rows.
        prompts: pieces of prompts.
    """

    def __init__(
        self,
        model_name: str,
        backbone: Backbone,
        stepper: Stepper,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        bundle: Bundle | None,
        context_window: int,
        conversations: int,
        fast_forward: bool = True,
    ) -> None:
        self.model_name = model_name
        self.bundle = bundle
        self.backbone = backbone
        self.stepper = stepper
        self.prompts = select_prompt_runner(backbone, stepper.name)
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._context_window = context_window
        self._fast_forward = fast_forward
        prefixes = PrefixCache(conversations, lambda slots: backbone.new_cache(slots, context_window))
        self._prefill = Prefill(backbone, prefixes, self.prompts)
        self._grammars = GrammarFactory(tokenizer, backbone.config.vocab_size)
        self.shape = backbone.config.shape(backbone.dtype)

    @cached_property
    def _loops(self) -> TokenLoops:
        return TokenLoops(self.backbone, self.stepper, self._vocabulary.end_ids)

    @cached_property
    def batch_stepper(self) -> BatchStepper:
        """Steps of several rows; chosen when they are first needed."""
        return select_batch_stepper(self.backbone, self.stepper)

    @torch.inference_mode()
    def run(self, request: GenerationRequest, generation: Generation, queue_ms: float) -> GenerationResult:
        """Run one request to its end; deltas go to `generation` as they are settled.

        Raises:
            LayerRouteError: a router, program or schema that cannot be honoured.
            GenerationCancelledError: given up before the first token.
        """
        running = self.start(request, generation, queue_ms)
        prompt, position = running.prompt, len(request.prompt_ids)
        with executions(self.backbone.executed_L) as executed_L, running.watch.time("decode"):
            loop = self._loops.start(
                request.sampling, prompt.logits_V, position, prompt.visits, prompt.conversation.cache
            )
            running.decoder.run(loop, position, len(prompt.visits), running.decode)
        running.decode.executed(executed_L)
        return self.finish(running, self.stepper.name)

    def start(self, request: GenerationRequest, generation: Generation, queue_ms: float) -> Running:
        """Run the prompt of a request and settle its program.

        Raises:
            LayerRouteError: a router, program or schema that cannot be honoured.
            GenerationCancelledError: given up meanwhile.
        """
        watch = Stopwatch()
        watch.add("queue", queue_ms)
        router = self._router(request)
        constraints = request.constraint.alternatives if request.constraint else ()
        grammars = [self._grammars.build(constraint) for constraint in constraints] or [None]
        meter = Meter(self.shape)

        def interrupt() -> None:
            if generation.cancelled:
                raise GenerationCancelledError("cancelled during the prefill")

        with executions(self.backbone.executed_L) as executed_L, watch.time("prefill"):
            prompt = self._prefill.run(request.prompt_ids, router, request.scope, meter, watch, interrupt)
        meter.executed(executed_L)
        # Under one mask for both, a model that would talk is pushed into what is less unlikely: another call, mostly.
        calls = len(grammars) == 1 or int(prompt.logits_V.argmax()) == self._vocabulary.call_id
        decoder = Decoder(
            grammars[0] if calls else grammars[1],
            Detokenizer(self._tokenizer, request.stop, self._vocabulary.marker_ids, self._vocabulary.end_ids),
            self._vocabulary.end_ids,
            self._max_tokens(request),
            generation.push,
            lambda: generation.cancelled,
            watch,
            self._fast_forward,
        )
        return Running(request, prompt, decoder, watch, meter, Meter(self.shape))

    def finish(self, running: Running, backend: str) -> GenerationResult:
        """Keep what the next turn can use, and account for an answer that has ended; `backend` decoded it."""
        request, prompt, answer = running.request, running.prompt, running.decoder.end()
        prefill, decode = running.prefill, running.decode
        self._keep(prompt, answer, request)
        report = StepReport(
            model=self.model_name,
            device=str(self.backbone.device),
            dtype=str(self.backbone.dtype).removeprefix("torch."),
            backend=backend,
            router=prompt.decision.router,
            reason=prompt.decision.reason,
            scope=request.scope,
            kind=self._observed_kind(answer),
            predicted_kind=prompt.decision.predicted_kind,
            tool_call_probability=prompt.decision.tool_call_probability,
            num_blocks=self.shape.num_blocks,
            program=str(prompt.decision.program),
            nominal_program=str(prompt.decision.program),
            visits_per_block=prompt.decision.program.visits_per_block,
            run_probabilities=prompt.decision.run_probabilities,
            prefill=prefill.visits(),
            decode=decode.visits(),
            prompt_tokens=len(request.prompt_ids),
            cached_tokens=prompt.cached_tokens,
            generated_tokens=len(answer.ids),
            fast_forwarded_tokens=answer.fast_forwarded,
            decode_steps=decode.passes,
            flops_full=prefill.flops_full + decode.flops_full,
            flops_realised=prefill.flops_realised + decode.flops_realised,
            bytes_full=decode.bytes_full,
            bytes_realised=decode.bytes_realised,
            milliseconds=running.watch.timings(),
            finish_reason=self._finish_reason(answer),
        )
        return GenerationResult(
            tuple(answer.ids), "".join(answer.text), report.finish_reason, report, answer.stop_string
        )

    def _router(self, request: GenerationRequest) -> Router:
        spec = request.router or ("gates" if self.bundle else "full")
        if request.program is not None:
            spec = f"static:{request.program}"
        return make_router(spec, self.shape.num_blocks, self.bundle)

    def _max_tokens(self, request: GenerationRequest) -> int:
        room = self._context_window - len(request.prompt_ids)
        return room if request.max_tokens is None else min(request.max_tokens, room)

    def _keep(self, prompt: Prefilled, answer: Answer, request: GenerationRequest) -> None:
        """Generated KV is kept for the next turn where it is what the next turn's prefill would compute."""
        shared = bool(prompt.conversation.ids)  # KV that gates made while running is shared with nobody
        if shared and (request.scope == "sequence" or prompt.decision.program.is_identity):
            prompt.conversation.ids.extend(answer.ids[: answer.fed])

    def _observed_kind(self, answer: Answer) -> StepKind:
        called = self._vocabulary.call_id is not None and self._vocabulary.call_id in answer.ids
        return StepKind.TOOL_CALL if called else StepKind.PLANNING

    def _finish_reason(self, answer: Answer) -> FinishReason:
        if answer.finish == "stop" and self._observed_kind(answer) is StepKind.TOOL_CALL:
            return "tool_calls"
        return answer.finish or "stop"
