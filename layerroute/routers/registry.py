"""Routers by their text form, as the command line and requests name them."""

from layerroute.bundle import Bundle
from layerroute.errors import RouterError, shown
from layerroute.program import LayerProgram
from layerroute.routers.base import Router
from layerroute.routers.baseline import LengthRouter, RandomRouter
from layerroute.routers.fixed import FullRouter, StaticRouter
from layerroute.routers.gates import GateRouter

SPECS = {
    "gates": "the bundle's trained gates decide, step by step",
    "full": "every block runs",
    "static:PROGRAM": "the same blocks for every step, such as static:0-7,16-23",
    "random:RATE[:SEED]": "each block but the first is skipped with this probability, such as random:0.3",
    "length:TOKENS:PROGRAM": "prompts of at most TOKENS tokens run the program, longer ones every block",
}
"""Router specs and what they mean."""

_NAMES = frozenset(spec.partition(":")[0] for spec in SPECS)


def is_spec(text: str) -> bool:
    """Whether a text begins as a router spec does."""
    return text.strip().partition(":")[0] in _NAMES


def make_router(spec: str, num_blocks: int, bundle: Bundle | None) -> Router:
    """Make the router that a spec names (see `SPECS`).

    Raises:
        RouterError: unknown or incomplete spec, or gates without a bundle.
        ProgramError: the spec's program cannot be read or names blocks that do not exist.
    """
    name, *arguments = spec.strip().split(":")
    match name, arguments:
        case "gates", []:
            if bundle is None:
                raise RouterError(
                    "router 'gates' needs a bundle of trained gates, and this model has none: give its folder as the "
                    "adapter, train one, or use router 'full'"
                )
            return GateRouter(bundle)
        case "full", []:
            return FullRouter(num_blocks)
        case "static", [program]:
            return StaticRouter(LayerProgram.parse(program, num_blocks))
        case "random", [rate]:
            return RandomRouter(num_blocks, _number(rate, spec))
        case "random", [rate, seed]:
            return RandomRouter(num_blocks, _number(rate, spec), _integer(seed, spec))
        case "length", [tokens, program]:
            return LengthRouter(_integer(tokens, spec), LayerProgram.parse(program, num_blocks))
    raise _unknown(spec)


def _number(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _unknown(spec) from None


def _integer(text: str, spec: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _unknown(spec) from None


def _unknown(spec: str) -> RouterError:
    return RouterError(f"cannot read router {shown(spec)}: use one of {', '.join(SPECS)}")
