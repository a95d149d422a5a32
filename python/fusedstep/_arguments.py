"""How the command line reads its options, and how its help shows them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

_LARGEST = 2**31 - 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def integer(minimum: int) -> Callable[[str], int]:
    """A parser of integers from `minimum` to 2**31 - 1."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be an integer >= {minimum} but got {text!r}")
        if number > _LARGEST:
            raise argparse.ArgumentTypeError(f"must be an integer <= {_LARGEST} but got {text!r}")
        return number

    return parse


def number(low: float, high: float, *, low_included: bool = False) -> Callable[[str], float]:
    """A parser of numbers between two bounds."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (low < number < high or (low_included and number == low)):
            interval = f"{'[' if low_included else '('}{low}, {high})"
            raise argparse.ArgumentTypeError(f"must be a number in {interval} but got {text!r}")
        return number

    return parse


def widths(text: str) -> tuple[int, ...]:
    """The widths of layers.

    >>> widths("128,64")
    (128, 64)
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or max(numbers) > _LARGEST:
        raise argparse.ArgumentTypeError(f"must be widths such as 128,64 but got {text!r}")
    return numbers
