"""The calculator: arithmetic on numbers, read as a syntax tree and never handed to `eval`."""

import ast
import operator
from collections.abc import Callable

from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy

MAX_CHARACTERS = 200
MAX_BITS = 4096
"""Integers, intermediate ones included, stay below 2**4096, so no expression can eat time or memory."""

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_SYMBOLS = str.maketrans({"^": "**", "×": "*", "÷": "/", "−": "-"})


def calculator(expression: str) -> Reply:
    """Evaluate numbers, brackets and the operators + - * / // % ** (also ^ × ÷)."""
    return {"result": _present(evaluate(expression))}


def evaluate(expression: str) -> Number:
    """Value of an arithmetic expression, unrounded.

    Raises:
        DeskError: not arithmetic, undefined (division by zero, root of a negative number), or too large.
    """
    if len(expression) > MAX_CHARACTERS:
        raise DeskError(f"the expression is longer than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.translate(_SYMBOLS).strip(), mode="eval")
        return _value(tree.body)
    except ZeroDivisionError:
        raise DeskError("division by zero") from None
    except OverflowError:
        raise DeskError("the result is too large") from None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise DeskError(f"cannot read the expression {expression!r}") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(op, _value(left), _value(right))
    raise DeskError("only numbers, brackets and + - * / % ** are allowed")


def _bounded(op: ast.operator, left: Number, right: Number) -> Number:
    grows = isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int)
    if grows and left.bit_length() * abs(right) > MAX_BITS:  # type: ignore[union-attr]
        raise DeskError("the result is too large")
    result = _BINARY[type(op)](left, right)
    if isinstance(result, complex):
        raise DeskError("the result is not a real number")
    if isinstance(result, int) and result.bit_length() > MAX_BITS:
        raise DeskError("the result is too large")
    return result


def _present(value: Number) -> Number:
    return value if isinstance(value, int) else tidy(value, places=4)
