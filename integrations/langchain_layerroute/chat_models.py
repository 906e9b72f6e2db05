"""LayerRouteChatModel: a LangChain chat model whose backbone runs only the blocks that each step needs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from langchain_layerroute.errors import InvalidRequestError, langchain_errors
from langchain_layerroute.messages import to_chat_messages
from langchain_layerroute.options import ModelCall, read_call, split_model
from langchain_layerroute.steps import PROVIDER, Prompt, Step, count_tokens
from langchain_layerroute.structured import StructuredMethod, structure, with_raw
from langchain_layerroute.tools import AnyTool, ToolChoice, to_constraint, to_openai_tools
from layerroute import __version__
from layerroute.backbone.config import EMBEDDED, local_folder
from layerroute.chat.template import encode_rendered, render
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import TextEngine, shared_engine
from layerroute.engine.request import GenerationRequest, Sampling
from layerroute.errors import ContextWindowError, RequestError
from layerroute.options import ALIASES, CallOptions, EngineOptions, canonical


class LayerRouteChatModel(EngineOptions, CallOptions, BaseChatModel):
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

    Fields are those of `EngineOptions` (`model`, `adapter`, `device`, `dtype`, `context_window`, `max_batch_size`) and
    `CallOptions` (`router`, `program`, `scope`, `temperature`, `top_p`, `top_k`, `seed`, `max_tokens`,
    `max_tool_calls`, `stop`, `timeout`), and the few below. Every call takes the `CallOptions` as keyword arguments,
    and `model`, `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and `strict`; they win over the
    fields. None is a value where a field may be None: `max_tokens=None` on a call lifts the limit, `router=None` asks
    for the model's own router. Elsewhere, and for `stop`, None says nothing; `stop=[]` takes the stop strings away.
    `stop_sequences`, `max_completion_tokens` and `model_name` are other names of `stop`, `max_tokens` and `model`.
    What is unknown or out of range is refused, by name.

    LangChain's `init_chat_model` makes models of the providers on its own list only, which nothing can be added to.
    Pass an instance where it would take a name; `configurable_fields` chooses the model at run time:
        ```python
        chosen = LayerRouteChatModel().configurable_fields(model=ConfigurableField(id="model"))
        chosen.invoke("Hello", config={"configurable": {"model": "embedded@full"}})
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=False, arbitrary_types_allowed=True)

    api_key: SecretStr | None = None
    """Accepted so that this class can stand in for a hosted model; nothing reads it."""

    max_retries: int | None = None
    """Accepted like `api_key`; an engine in this process has no connection to retry."""

    streaming: bool = False
    """Whether `invoke` streams internally, so that callbacks see tokens."""

    engine: Any = Field(default=None, exclude=True, repr=False)
    """A `TextEngine` to use instead of the shared one that the other fields describe."""

    @model_validator(mode="before")
    @classmethod
    def _know_every_option(cls, given: Any) -> Any:
        """Give aliases our own names; refuse what is no field, before pydantic does so without a hint."""
        if not isinstance(given, dict):
            return given
        try:
            return canonical(given, cls.model_fields, "this model has no such field")
        except RequestError as error:
            raise ValueError(str(error)) from None

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
        params: dict[str, Any] = {name: getattr(self, name) for name in (*EngineOptions.model_fields, *_CALL_FIELDS)}
        del params["timeout"]
        params["stop_sequences"] = params.pop("stop")  # LangChain puts the `stop` of a call, even None, over a "stop"
        if self.engine is not None:
            params["engine"] = repr(self.engine.config)
        return {**params, "output_version": self.output_version, "layerroute_version": __version__}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        own = {ALIASES.get(name, name): value for name, value in kwargs.items()}
        called = own.pop("stop", None)
        params = super()._get_ls_params(stop=stop or called or self.stop, **own)
        params["ls_provider"] = PROVIDER
        if own.get("max_tokens", self.max_tokens) is None:
            params.pop("ls_max_tokens", None)
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache's key; it is asked for before the call, so what cannot be spelled is refused here."""
        with langchain_errors():
            self._call(stop, kwargs)
        try:
            return super()._get_llm_string(stop=stop, **kwargs)
        except ValueError as error:  # an integer of thousands of digits, inside a tool for example
            raise InvalidRequestError(f"the options are no key for the cache ({error}): call without one") from error

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
            # True leads `create_agent(response_format=...)` to a document under the grammar, False to a tool of that
            # schema. The embedded model ends its work with the first and calls its own tools for ever with the second;
            # a stock model answers at once, past its tools, unless every step has to be a call.
            structured_output=split_model(self.model)[0] == EMBEDDED,
            temperature=True,
        )
        window = self._known_window()
        if window is not None:
            profile["max_input_tokens"] = window
            profile["max_output_tokens"] = min(window, self.max_tokens or window)
        return profile

    def _known_window(self) -> int | None:
        """Return the context window, unless only a download could tell: making a model must stay offline."""
        name, _ = split_model(self.model)
        if self.engine is None and name != EMBEDDED and local_folder(name) is None:
            return self.context_window
        return self._engine_for(name).context_window

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of `text` with `custom_get_token_ids`, or else with this model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return list(encode_rendered(self._own_engine.tokenizer, text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[AnyTool] | None = None) -> int:
        """Length in tokens of the prompt of `messages` and `tools`; without messages, of what tools add to a prompt."""
        shown = to_openai_tools(tools or ())
        if not messages:
            return _size_of_tools(self._num_tokens, shown)
        return self._num_tokens(to_chat_messages(messages, whole=False), shown)

    def _num_tokens(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> int:
        if self.custom_get_token_ids is None:
            return count_tokens(self._own_engine, messages, tools)
        return len(self.custom_get_token_ids(render(self._own_engine.tokenizer, messages, tools)))

    # One call.

    @property
    def _own_engine(self) -> TextEngine:
        return self._engine_for(split_model(self.model)[0])

    def _engine_for(self, name: str) -> TextEngine:
        own = name == split_model(self.model)[0]
        if own and self.engine is not None:
            return self.engine  # type: ignore[no-any-return]
        described = {field: getattr(self, field) for field in EngineOptions.model_fields} | {"model": name}
        if not own:  # what describes this model's weights is no matter of another's
            described |= {"adapter": None, "context_window": None}
        return shared_engine(EngineConfig(**described))

    def _call(self, stop: Any, given: dict[str, Any]) -> ModelCall:
        """The options of a call, over the fields."""
        fields = {name: getattr(self, name) for name in ("model", *_CALL_FIELDS)}
        return read_call(fields, given if stop is None else {"stop": stop, **given})

    def _step(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> Step:
        """Render the prompt and put together the request; touches the tokenizer but not the weights."""
        call = self._call(stop, given)
        engine = self._engine_for(split_model(call.model)[0])
        tools = to_openai_tools(call.tools or ())
        prompt = Prompt(engine, to_chat_messages(messages), tools)
        _refuse_too_many(tools, engine, prompt)
        request = GenerationRequest(
            prompt_ids=prompt.ids,
            max_tokens=call.max_tokens,
            sampling=Sampling(
                temperature=call.temperature,
                top_k=call.top_k or 0,
                top_p=1.0 if call.top_p is None else call.top_p,
                seed=call.seed,
            ),
            stop=tuple(call.stop or ()),
            router=call.router,
            program=call.program,
            scope=call.scope,
            constraint=to_constraint(
                tools,
                call.tool_choice,
                parallel=call.parallel_tool_calls,
                max_calls=call.max_tool_calls,
                response_format=call.response_format,
            ),
        )
        return Step(engine, prompt, request, call.model, call.timeout)

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
        rows = self._own_engine.config.max_batch_size
        if rows > 1 and configs and configs[0].get("max_concurrency") is None:
            configs[0] = {**configs[0], "max_concurrency": 2 * rows}
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    # What is built on a call.

    if not TYPE_CHECKING:  # LangChain's own annotation is private, and not in every version

        def bind(self, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
            """Fix options of the calls to come.

            Raises:
                InvalidRequestError: an option that is unknown or cannot be honoured.
            """
            with langchain_errors():
                self._call(None, kwargs)
            return super().bind(**kwargs)

    def bind_tools(
        self,
        tools: Sequence[AnyTool],
        *,
        tool_choice: ToolChoice = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model. Every call it makes names one of them and fits its schema.

        What a grammar cannot hold of a schema (unique items, `not`, look-around, ...) is checked on the finished call:
        one that does not fit is among the message's `invalid_tool_calls`, with the reason. A call that was made already
        is not made again in the same answer.

        Args:
            tools: functions, LangChain tools, pydantic classes, TypedDicts, or dicts in OpenAI, Anthropic or JSON
                schema form. May be empty.
            tool_choice: None, False or "auto" (text or calls), "none", "any", "required" or True (at least one
                call), a tool's name, or an OpenAI or Anthropic dict.
            **kwargs: options of a call, such as `parallel_tool_calls=False` or `response_format`. `strict` changes
                nothing: calls are always held to their schema.

        Raises:
            InvalidSchemaError: a tool whose schema is broken; the message names the tool and the field.
            InvalidRequestError: a tool, choice or option that cannot be honoured.
        """
        shown = to_openai_tools(tools)
        with langchain_errors():
            to_constraint(shown, tool_choice, response_format=kwargs.get("response_format"))
        if tool_choice is not None:
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

        An answer that `max_tokens` or a stop string cuts off is no object: it raises `TruncatedAnswerError`. A stream
        gives what there is of the object as it grows, and ends in the same error.

        Args:
            schema: a pydantic class, TypedDict, JSON schema with a title, or OpenAI tool.
            method: "function_calling" (the model sees the schema as a tool and must call it), "json_schema" (the
                answer is held to the schema, which the prompt does not show), or "json_mode" (any JSON object;
                the prompt has to describe it; `schema` only parses and may be None).
            include_raw: return {"raw", "parsed", "parsing_error"}; these errors then stand under "parsing_error".
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


_CALL_FIELDS = tuple(CallOptions.model_fields)

ChatLayerRoute = LayerRouteChatModel
"""The same class under LangChain's naming rule."""


def _size_of_tools(count: Callable[[list[dict[str, Any]], list[dict[str, Any]]], int], tools: list[Any]) -> int:
    """What tools add to a prompt, by a count of messages and tools."""
    empty = [{"role": "user", "content": ""}]
    return count(empty, tools) - count(empty, [])


def _refuse_too_many(tools: list[dict[str, Any]], engine: TextEngine, prompt: Prompt) -> None:
    """Say so where it is the tools that fill the window; of other prompts that are too long the engine speaks."""
    if not tools or len(prompt.ids) < engine.context_window:
        return
    size = _size_of_tools(partial(count_tokens, engine), tools)
    if 2 * size > engine.context_window:
        raise ContextWindowError(
            f"the prompt has {len(prompt.ids)} tokens and the window of {engine.model_name} holds "
            f"{engine.context_window}, answer included; its {len(tools)} tools alone take {size} of them: "
            "bind fewer tools, shorten their descriptions, or use a model with a larger window"
        )
