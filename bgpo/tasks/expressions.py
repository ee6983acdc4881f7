"""Arithmetic that a model wrote: a parser that knows whole numbers, + - * / and brackets. It runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def value_of(symbols: Sequence[str], shown: str, *, signs: bool) -> Fraction:
    """The exact value of an expression that has been cut into numbers, operators and brackets.

    Args:
        shown: the expression as a sentence names it.
        signs: a number or bracket may have one, as in -3 or 2*-3.

    Raises:
        ValueError: one sentence on what is wrong with it.
    """
    reader = _Reader(symbols, signs)
    value = reader.sum()
    if reader.rest:
        raise ValueError(f"{shown!r} breaks off before {reader.rest[-1]!r}")
    return value


class _Reader:
    """Takes what it reads off the end of `rest`, which holds the symbols in reverse."""

    def __init__(self, symbols: Sequence[str], signs: bool):
        self.rest = list(symbols[::-1])
        self._signs = signs

    def sum(self) -> Fraction:
        """Products with + or - between them."""
        value = self._product()
        while self.rest and self.rest[-1] in "+-":
            sign = 1 if self.rest.pop() == "+" else -1
            value += sign * self._product()
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while self.rest and self.rest[-1] in "*/":
            divide = self.rest.pop() == "/"
            factor = self._factor()
            if divide and not factor:
                raise ValueError("it divides by zero")
            value = value / factor if divide else value * factor
        return value

    def _factor(self) -> Fraction:
        symbol = self.rest.pop() if self.rest else "the end"
        if symbol.isdigit():
            return Fraction(int(symbol))
        if self._signs and symbol in "+-":
            return self._factor() if symbol == "+" else -self._factor()
        if symbol != "(":
            raise ValueError(f"a number is missing before {symbol}")
        value = self.sum()
        if not self.rest or self.rest.pop() != ")":
            raise ValueError("a bracket is not closed")
        return value
