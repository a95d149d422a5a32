"""Lines on stderr."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager

from ..backend import SlowReferenceWarning


def note(text: str) -> None:
    """One line."""
    print(f"fusedstep: {' '.join(text.split())}", file=sys.stderr)


@contextmanager
def readable_warnings():
    """Show each warning to users once, as a line, without the place in the source that raised it."""
    seen = set()

    def show(message, category, *place):
        if str(message) not in seen:
            seen.add(str(message))
            note(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's: what is not finite is refused by name
        warnings.filterwarnings("always", category=SlowReferenceWarning)
        warnings.showwarning = show
        yield
