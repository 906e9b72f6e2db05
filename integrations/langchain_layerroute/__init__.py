"""LangChain integration of LayerRoute: a chat model that routes inside one model, block by block.

Names load when they are first used, so the chat model works without `langchain` (only `langchain-core`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_layerroute.callbacks import ComputeReportHandler
    from langchain_layerroute.chat_models import ChatLayerRoute, LayerRouteChatModel
    from langchain_layerroute.middleware import ComputeReportMiddleware

__all__ = ["ChatLayerRoute", "ComputeReportHandler", "ComputeReportMiddleware", "LayerRouteChatModel"]

_MODULES = {
    "ChatLayerRoute": "chat_models",
    "LayerRouteChatModel": "chat_models",
    "ComputeReportHandler": "callbacks",
    "ComputeReportMiddleware": "middleware",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
