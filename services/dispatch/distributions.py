"""Durations as they are written in simulation configurations, for example `Exponential(12/60/24)`.

The grammar is the small part of Julia that JEMSS configurations use: numbers, `+ - * /`, parentheses, lists, and the
names below. It is read with Python's own parser and walked by hand, so nothing of the text is ever executed.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

import numpy as np

MAX_TEXT: Final = 500
_RESAMPLES: Final = 100


class Shape(Enum):
    """Families of distributions, each with the parameters `a` and `b` of `Duration`."""

    CONSTANT = "Dirac"
    """a = the value."""
    EXPONENTIAL = "Exponential"
    """a = mean."""
    NORMAL = "Normal"
    """a = mean, b = standard deviation."""
    UNIFORM = "Uniform"
    """a = low, b = high."""
    WEIBULL = "Weibull"
    """a = shape, b = scale."""
    GAMMA = "Gamma"
    """a = shape, b = scale."""
    LOGNORMAL = "LogNormal"
    """a, b = mean and standard deviation of the logarithm."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A random duration, in minutes, kept between `low` and `high` by drawing again."""

    shape: Shape
    a: float
    b: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def sample(self, rng: np.random.Generator) -> float:
        """Draws one duration; after 100 draws outside of the bounds it takes the nearer bound."""
        value = self._draw(rng)
        for _ in range(_RESAMPLES):
            if self.low <= value <= self.high:
                return value
            value = self._draw(rng)
        return min(max(value, self.low), self.high)

    def _draw(self, rng: np.random.Generator) -> float:
        value: float
        match self.shape:
            case Shape.CONSTANT:
                value = self.a
            case Shape.EXPONENTIAL:
                value = rng.exponential(self.a)
            case Shape.NORMAL:
                value = rng.normal(self.a, self.b) if self.b else self.a
            case Shape.UNIFORM:
                value = rng.uniform(self.a, self.b)
            case Shape.WEIBULL:
                value = self.b * rng.weibull(self.a)
            case Shape.GAMMA:
                value = rng.gamma(self.a, self.b)
            case Shape.LOGNORMAL:
                value = rng.lognormal(self.a, self.b)
            case _ as never:
                assert_never(never)
        return float(value)

    @property
    def mean(self) -> float:
        """Mean in minutes, before the bounds are applied."""
        match self.shape:
            case Shape.CONSTANT | Shape.EXPONENTIAL | Shape.NORMAL:
                return self.a
            case Shape.UNIFORM:
                return (self.a + self.b) / 2
            case Shape.WEIBULL:
                return self.b * math.gamma(1 + 1 / self.a)
            case Shape.GAMMA:
                return self.a * self.b
            case Shape.LOGNORMAL:
                return math.exp(self.a + self.b**2 / 2)
            case _ as never:
                assert_never(never)


def parse_duration(text: str, *, minutes_per_unit: float) -> Duration:
    """Reads a duration such as `truncated(Normal(2/60/24, 1/60/24), 0, 5/60/24)`.

    Args:
        text: the expression.
        minutes_per_unit: minutes in the text's unit of time (1 440 when it counts days).

    Raises:
        ValueError: says in one sentence what is wrong.
    """
    return _duration(_tree(text), minutes_per_unit)


def parse_number(text: str) -> float:
    """Reads a number or an arithmetic expression such as `8/60/24`.

    Raises:
        ValueError: says in one sentence what is wrong.
    """
    return _number(_tree(text))


def parse_list(text: str) -> tuple[float, ...]:
    """Reads a list such as `[0.57, 0.245, 0.185]` or `[1; 2; 3]`.

    Raises:
        ValueError: says in one sentence what is wrong.
    """
    return _list(_tree(text.replace(";", ",")))


def parse_call(text: str, name: str) -> tuple[float, ...]:
    """Reads `name(...)` with one number or one list, for example `Bernoulli(0.8)` or `Categorical([0.4, 0.6])`.

    Raises:
        ValueError: says in one sentence what is wrong.
    """
    node = _tree(text)
    if not (isinstance(node, ast.Call) and _name(node) == name and len(node.args) == 1 and not node.keywords):
        raise ValueError(f"{text[:60]!r} must be {name}(...) with one value")
    argument = node.args[0]
    return _list(argument) if isinstance(argument, ast.List) else (_number(argument),)


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_TEXT:
        raise ValueError(f"an expression has at most {MAX_TEXT} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text[:60]!r} is not an expression") from None


def _name(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _list(node: ast.expr) -> tuple[float, ...]:
    if not isinstance(node, ast.List):
        raise ValueError("a list in square brackets is wanted")  # noqa: TRY004 - the text is wrong, not a type
    return tuple(_number(element) for element in node.elts)


def _number(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            number = float(value)
        case ast.UnaryOp(op=ast.USub()):
            number = -_number(node.operand)
        case ast.BinOp():
            number = _arithmetic(node)
        case _:
            raise ValueError("only numbers, + - * / and parentheses may stand here")
    if not math.isfinite(number):
        raise ValueError("a number must be finite")
    return number


def _arithmetic(node: ast.BinOp) -> float:
    left, right = _number(node.left), _number(node.right)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if right != 0:
            return left / right
        case _:
            raise ValueError("only + - * / are known, and nothing is divided by zero")


def _duration(node: ast.expr, unit: float) -> Duration:
    if not isinstance(node, ast.Call) or node.keywords:
        constant = _number(node)
        return _checked(Duration(Shape.CONSTANT, constant * unit))
    name = _name(node)
    if name in {"truncated", "Truncated"} and len(node.args) == 3:
        inner = _duration(node.args[0], unit)
        low, high = (_number(argument) * unit for argument in node.args[1:])
        if not low < high:
            raise ValueError("truncated(...) needs low under high")
        return Duration(inner.shape, inner.a, inner.b, max(low, 0.0), high)
    shapes = {shape.value: shape for shape in Shape}
    if name not in shapes:
        raise ValueError(f"distribution {name[:40]!r} is none of {', '.join(shapes)}, truncated")
    return _checked(_scaled(shapes[name], [_number(argument) for argument in node.args], unit))


def _scaled(shape: Shape, numbers: list[float], unit: float) -> Duration:
    match shape, numbers:
        case ((Shape.CONSTANT | Shape.EXPONENTIAL), [a]):
            return Duration(shape, a * unit)
        case ((Shape.NORMAL | Shape.UNIFORM), [a, b]):
            return Duration(shape, a * unit, b * unit)
        case ((Shape.WEIBULL | Shape.GAMMA), [a, b]):
            return Duration(shape, a, b * unit)
        case Shape.LOGNORMAL, [a, b]:
            return Duration(shape, a + math.log(unit), b)
        case _:
            raise ValueError(f"{shape.value} has the wrong number of parameters")


def _checked(duration: Duration) -> Duration:
    rising = duration.shape is not Shape.UNIFORM or duration.a < duration.b
    positive = duration.shape in {Shape.LOGNORMAL, Shape.CONSTANT, Shape.NORMAL, Shape.UNIFORM} or duration.a > 0
    scale = duration.shape not in {Shape.WEIBULL, Shape.GAMMA} or duration.b > 0
    located = duration.shape is Shape.LOGNORMAL or duration.a >= 0
    if not (rising and positive and scale and located and duration.b >= 0):
        raise ValueError(f"{duration.shape.value} has a parameter outside of its range")
    return duration
