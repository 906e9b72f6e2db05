"""Errors of the chat model: LayerRoute's own message under the exception class that LangChain programs catch."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    OutputParserException,
)

from layerroute.errors import (
    BackboneNotFoundError,
    ContextWindowError,
    LayerRouteError,
    ProgramError,
    RequestError,
    RouterError,
    ToolSchemaError,
)


class InvalidRequestError(RequestError, ModelInvalidRequestError):
    """A call that cannot be honoured: unknown option, unsupported content, bad tool or tool choice."""


class StructuredAnswerError(OutputParserException, LayerRouteError):
    """An answer that holds no object of the schema that `with_structured_output` asked for."""


class TruncatedAnswerError(StructuredAnswerError):
    """An answer that `max_tokens`, the context window or a stop string cut off before its object was whole."""


class InvalidSchemaError(ToolSchemaError, InvalidRequestError):
    """A tool or response schema that answers cannot be held to; the message names its owner and the field."""


# First match wins, so a class stands before its bases. What is not listed (broken weights, a bad bundle, no such
# device) is no matter of the request and keeps its own class.
_LANGCHAIN_CLASSES: tuple[tuple[type[LayerRouteError], type[ModelError]], ...] = (
    (ContextWindowError, ContextOverflowError),
    (BackboneNotFoundError, ModelNotFoundError),
    (ToolSchemaError, InvalidSchemaError),
    (RequestError, InvalidRequestError),
    (RouterError, InvalidRequestError),
    (ProgramError, InvalidRequestError),
)


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Re-raise LayerRoute's errors as LangChain's, with the same message and the original as the cause."""
    try:
        yield
    except ModelError:
        raise
    except LayerRouteError as error:
        for own, theirs in _LANGCHAIN_CLASSES:
            if isinstance(error, own):
                raise theirs(str(error)) from error
        raise
