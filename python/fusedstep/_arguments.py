"""How the command line reads its options, and how its help shows them."""

from __future__ import annotations

import argparse
import csv
import math
import textwrap
from collections.abc import Callable

_LARGEST = 2**31 - 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)

    def _fill_text(self, text, width, indent):
        """As argparse has it, but names with hyphens stay whole."""
        words = " ".join(text.split())
        return textwrap.fill(words, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


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


def names(text: str) -> tuple[str, ...]:
    """Names of columns; quotes, as in a CSV file, keep a comma within a name.

    >>> names("age, sex"), names('"length, cm",age')
    (('age', 'sex'), ('length, cm', 'age'))
    """
    try:
        fields = next(csv.reader([text], skipinitialspace=True, strict=True), [""])
    except csv.Error:
        fields = [""]
    parts = tuple(part.strip() for part in fields)
    if not all(parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"must be different names such as age,sex but got {text!r}")
    return parts


def shares(text: str) -> tuple[float, float, float]:
    """Shares of train, validation and test.

    >>> shares("60/20/20")
    (0.6, 0.2, 0.2)
    """
    try:
        sizes = [float(part) for part in text.split("/")]
    except ValueError:
        sizes = []
    if len(sizes) != 3 or not all(0 < size < math.inf for size in (*sizes, sum(sizes))):
        raise argparse.ArgumentTypeError(f"must be three shares such as 60/20/20 but got {text!r}")
    train, validation, test = (size / sum(sizes) for size in sizes)
    return train, validation, test


def batch_size(text: str) -> int | str:
    """Samples in a step: a number or ``full``.

    >>> batch_size("64"), batch_size("full")
    (64, 'full')
    """
    return text if text == "full" else integer(1)(text)


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
