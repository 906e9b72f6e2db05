"""LayerRouteChatModel: a LangChain chat model whose backbone runs only the blocks that each step needs."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from langchain_layerroute.errors import InvalidRequestError, langchain_errors
from langchain_layerroute.messages import to_chat_messages
from langchain_layerroute.steps import PROVIDER, Prompt, Step, count_tokens
from langchain_layerroute.structured import StructuredMethod, structure, with_raw
from langchain_layerroute.tools import AnyTool, ToolChoice, to_choice, to_constraint, to_openai_tools
from layerroute import __version__
from layerroute.backbone.config import EMBEDDED
from layerroute.chat.template import encode_rendered
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import TextEngine, shared_engine
from layerroute.engine.request import GenerationRequest, Sampling
from layerroute.report import Scope

# What one call may set; everything else is refused, because a typo would otherwise change nothing in silence.
_DECODING_OPTIONS = ("temperature", "top_p", "top_k", "seed", "max_tokens", "timeout", "scope")
_ROUTING_OPTIONS = ("model", "router", "program")
_OUTPUT_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "strict")
_LANGCHAIN_OPTIONS = ("stream", "ls_structured_output_format", "structured_output_format")
_CALL_OPTIONS = (*_ROUTING_OPTIONS, *_DECODING_OPTIONS, *_OUTPUT_OPTIONS, *_LANGCHAIN_OPTIONS)


class LayerRouteChatModel(BaseChatModel):
    """Chat model that decides per call which transformer blocks run, and reports what it ran.

    Making one is cheap: weights load at the first call, and models with equal settings share one engine, which is
    safe to use from threads and from asyncio.

    Example:
        ```python
        model = LayerRouteChatModel()
        message = model.invoke("What is 12 * 7?")
        message.response_metadata["layerroute"]["program"]
        model.invoke("What is 12 * 7?", model="embedded@full")  # the same weights at full depth
        ```

    Every call takes these keyword arguments, which win over the fields: `model`, `router`, `program`, `scope`,
    `temperature`, `top_p`, `top_k`, `seed`, `max_tokens`, `timeout`, `stop`, `tools`, `tool_choice`,
    `parallel_tool_calls`, `response_format`, `strict`. Others are refused.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str = EMBEDDED
    """"embedded", a local checkpoint folder or a hub id; "NAME@ROUTER" also sets the router ("embedded@full")."""

    adapter: str | None = None
    """Bundle folder; "none" for the bare backbone; None for the model's own bundle if it ships one."""

    device: str = "auto"
    """"auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N"."""

    dtype: str = "auto"
    """"auto" (bfloat16 on CUDA, float32 on CPU), "float32", "bfloat16" or "float16"."""

    context_window: int | None = Field(default=None, ge=1)
    """Most tokens of prompt and answer together; None for what the checkpoint allows."""

    max_batch_size: int = Field(default=1, ge=1)
    """Most calls that decode together, as rows of batched steps: those of `batch` and `abatch`, or of several agents.
    1 answers one call after the other. A row's answer does not depend on the others; each holds a KV cache."""

    router: str | None = None
    """"gates", "full", "static:0-7,9-23", "random:...", "length:..."; None for gates if the bundle has them."""

    program: str | None = None
    """Text form of a layer program that overrides the router, such as "0-7,9-23"."""

    scope: Scope = "generation"
    """Tokens that the program governs: "generation" (answer only) or "sequence" (prompt and answer)."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy; else the logits are divided by it."""

    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Draw from the smallest set of likeliest tokens with this much probability; None keeps all."""

    top_k: int | None = Field(default=None, ge=0)
    """Draw from the k likeliest tokens; None or 0 keeps all."""

    seed: int | None = None
    """Seed of each call's own random numbers; None draws one from the operating system."""

    max_tokens: int | None = Field(default=1024, ge=1)
    """Most tokens of an answer; None for what the context window leaves."""

    stop: list[str] | None = None
    """Strings that end an answer and are cut off it; `stop` of a call replaces them."""

    timeout: float | None = Field(default=None, gt=0.0)
    """Seconds until a call is given up with `ModelTimeoutError`, waiting for the engine included."""

    api_key: SecretStr | None = None
    """Accepted so that this class can stand in for a hosted model; nothing reads it."""

    max_retries: int | None = None
    """Accepted like `api_key`; an engine in this process has no connection to retry."""

    streaming: bool = False
    """Whether `invoke` streams internally, so that callbacks see tokens."""

    engine: Any = Field(default=None, exclude=True, repr=False)
    """A `TextEngine` to use instead of the shared one that the other fields describe."""

    # What LangChain asks about.

    @property
    def model_name(self) -> str:
        """Name reported as `model_name` in traces and usage."""
        return self.model

    @property
    def _llm_type(self) -> str:
        return "layerroute-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that changes an answer: LangChain's cache takes two models with equal values for one."""
        fields = ("model", "adapter", "device", "dtype", "context_window", "max_batch_size")
        routing = ("router", "program", "scope")
        decoding = ("temperature", "top_p", "top_k", "seed", "max_tokens")
        params: dict[str, Any] = {name: getattr(self, name) for name in (*fields, *routing, *decoding)}
        params["stop_sequences"] = self.stop  # LangChain puts the `stop` of a call, even None, over a "stop"
        if self.engine is not None:
            params["engine"] = repr(self.engine.config)
        return {**params, "output_version": self.output_version, "layerroute_version": __version__}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        profile = ModelProfile(
            name=self.model,
            open_weights=True,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            reasoning_output=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
        )
        window = self._known_window()
        if window is not None:
            profile["max_input_tokens"] = window
            profile["max_output_tokens"] = min(window, self.max_tokens or window)
        return profile

    def _known_window(self) -> int | None:
        """Return the context window, unless only a download could tell: making a model must stay offline."""
        name, _ = _split_model(self.model)
        if self.engine is None and name != EMBEDDED and not Path(name).is_dir():
            return self.context_window
        return self._engine_for(name).context_window

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of `text` with this model's own tokenizer."""
        name, _ = _split_model(self.model)
        return list(encode_rendered(self._engine_for(name).tokenizer, text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[AnyTool] | None = None) -> int:
        """Length in tokens of the prompt that `messages` and `tools` render to."""
        name, _ = _split_model(self.model)
        shown = to_chat_messages(messages, whole=False)
        return count_tokens(self._engine_for(name), shown, to_openai_tools(tools or ()))

    # One call.

    def _engine_for(self, name: str) -> TextEngine:
        if name != _split_model(self.model)[0]:
            return shared_engine(
                EngineConfig(model=name, device=self.device, dtype=self.dtype, max_batch_size=self.max_batch_size)
            )
        if self.engine is not None:
            return self.engine  # type: ignore[no-any-return]
        return shared_engine(
            EngineConfig(
                model=name,
                adapter=self.adapter,
                device=self.device,
                dtype=self.dtype,
                context_window=self.context_window,
                max_batch_size=self.max_batch_size,
            )
        )

    def _step(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> Step:
        """Render the prompt and put together the request; touches the tokenizer but not the weights."""
        _refuse_unknown(options)
        model = options.get("model") or self.model
        name, preset = _split_model(model)
        engine = self._engine_for(name)
        tools = to_openai_tools(options.get("tools") or ())
        prompt = Prompt(engine, to_chat_messages(messages), tools)
        parallel = options.get("parallel_tool_calls")
        request = GenerationRequest(
            prompt_ids=prompt.ids,
            max_tokens=self._option("max_tokens", options),
            sampling=Sampling(
                temperature=self._option("temperature", options),
                top_k=self._option("top_k", options) or 0,
                top_p=self._option("top_p", options) or 1.0,
                seed=self._option("seed", options),
            ),
            stop=_stop_strings(self.stop if stop is None else stop),
            scope=self._option("scope", options),
            constraint=to_constraint(
                tools,
                options.get("tool_choice"),
                parallel=parallel is None or bool(parallel),
                response_format=options.get("response_format"),
            ),
            **self._routing(options, preset),
        )
        return Step(engine, prompt, request, model, self._option("timeout", options))

    def _option(self, name: str, options: dict[str, Any]) -> Any:
        value = options.get(name)
        return getattr(self, name) if value is None else value

    def _routing(self, options: dict[str, Any], preset: str | None) -> dict[str, str | None]:
        """Router and program of a call: what the call names replaces both fields."""
        called = options.get("router") or (preset if options.get("model") else None)
        program = options.get("program")
        if called or program:
            return {"router": called, "program": program}
        return {"router": self.router or preset, "program": self.program}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            step = self._step(messages, stop, kwargs)
            with step.running() as generation:
                for delta in generation:
                    step.read(delta)
            return ChatResult(generations=[ChatGeneration(message=step.message())])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            step = await asyncio.to_thread(self._step, messages, stop, kwargs)
            with step.running() as generation:
                async for delta in generation:
                    step.read(delta)
            return ChatResult(generations=[ChatGeneration(message=step.message())])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            step = self._step(messages, stop, kwargs)
            with step.running() as generation:
                for delta in generation:
                    for chunk in step.chunks(delta):
                        if run_manager is not None:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            for chunk in step.last_chunks():
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            step = await asyncio.to_thread(self._step, messages, stop, kwargs)
            with step.running() as generation:
                async for delta in generation:
                    for chunk in step.chunks(delta):
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            for chunk in step.last_chunks():
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs; up to `max_batch_size` of them decode together.

        Unless `config` sets "max_concurrency", LangChain would run as many calls at once as the machine has cores and
        four more; here it is as many as keep the rows taken and their successors waiting.
        """
        configs = get_config_list(config, len(inputs)) if inputs else []
        rows = self._engine_for(_split_model(self.model)[0]).config.max_batch_size
        if rows > 1 and configs and configs[0].get("max_concurrency") is None:
            configs[0] = {**configs[0], "max_concurrency": 2 * rows}
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    # What is built on a call.

    def bind_tools(
        self,
        tools: Sequence[AnyTool],
        *,
        tool_choice: ToolChoice = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model. Every call it makes names one of them and validates against its schema.

        Args:
            tools: functions, LangChain tools, pydantic classes, TypedDicts, or dicts in OpenAI, Anthropic or JSON
                schema form. May be empty.
            tool_choice: None, False or "auto" (text or calls), "none", "any", "required" or True (at least one
                call), a tool's name, or an OpenAI or Anthropic dict.
            **kwargs: options of a call, such as `parallel_tool_calls=False` or `response_format`. `strict` changes
                nothing: calls are always held to their schema.

        Raises:
            InvalidRequestError: a tool, choice or option that cannot be honoured.
        """
        _refuse_unknown(kwargs)
        shown = to_openai_tools(tools)
        if tool_choice is not None:
            to_choice(tool_choice, shown)
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=shown, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: StructuredMethod = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return a runnable whose answers are objects of `schema`; decoding cannot leave the schema.

        Args:
            schema: a pydantic class, TypedDict, JSON schema with a title, or OpenAI tool.
            method: "function_calling" (the model sees the schema as a tool and must call it), "json_schema" (the
                answer is held to the schema, which the prompt does not show), or "json_mode" (any JSON object;
                the prompt has to describe it; `schema` only parses and may be None).
            include_raw: return {"raw", "parsed", "parsing_error"} and raise no parsing errors.
            strict: accepted for compatibility; decoding is always held to the schema.
            **kwargs: none is supported.

        Raises:
            InvalidRequestError: an unknown method or option, or a missing schema.
        """
        if kwargs:
            raise InvalidRequestError(f"with_structured_output does not know {', '.join(map(repr, kwargs))}")
        options, parser = structure(schema, method, strict)
        tools = options.pop("tools", None)
        llm = self.bind(**options) if tools is None else self.bind_tools(tools, **options)
        return with_raw(llm, parser) if include_raw else llm | parser


ChatLayerRoute = LayerRouteChatModel
"""The same class under LangChain's naming rule."""


def _split_model(model: str) -> tuple[str, str | None]:
    """Split "NAME@ROUTER" into name and router."""
    name, _, router = model.partition("@")
    return name, router or None


def _stop_strings(stop: list[str] | str | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _refuse_unknown(options: dict[str, Any]) -> None:
    unknown = options.keys() - set(_CALL_OPTIONS)
    if unknown:
        raise InvalidRequestError(
            f"unknown option {', '.join(sorted(map(repr, unknown)))}: a call takes stop, {', '.join(_CALL_OPTIONS)}"
        )
