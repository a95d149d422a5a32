"""Options of an optimizer that may be changed between steps."""

from __future__ import annotations

from collections.abc import Callable


class Checked:
    """An attribute that is checked whenever it is set, and then read as any other, since every step reads it.

    ``check(method, value)`` raises or returns what is kept.
    """

    def __init__(self, check: Callable):
        self._check = check

    def __set_name__(self, owner, name: str):
        self._name = name

    def __set__(self, optimizer, value):  # without a __get__, the instance's own value is what is read
        optimizer.__dict__[self._name] = self._check(optimizer._method, value)
