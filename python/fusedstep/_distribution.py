"""How the parts of a split differ from each other, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import _columns
from ._columns import Column
from ._distribution_tests import chi_square, holm, kolmogorov_smirnov, resamples_for, total_variation
from .reference.scalars import check_range

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN = 8  # values of a column that the table lists one by one
_SIZES = ((0.08, "negligibly"), (0.2, "slightly"), (0.31, "moderately"), (np.inf, "strongly"))


@dataclass
class DistributionReport:
    """What `distribution_report` returns; printing it gives a table and the words.

    Attributes
    ----------
    rows : list of dict
        One a column and part: `column`, `kind` ("categorical" or "continuous"), `part`, `size`, `shares` (value: share
        of the part; None where continuous), `quantiles` (0.05, 0.25, 0.5, 0.75, 0.95: value; None where categorical),
        `test`, `statistic`, `p_value`, `p_adjusted` (Holm), `effect`, `deviates`.
    deviations : list of str
        A sentence for each row that deviates.
    alpha : float
    """

    rows: list[dict]
    deviations: list[str]
    alpha: float = 0.05

    def __str__(self) -> str:
        parts = list(dict.fromkeys(row["part"] for row in self.rows))
        lines = [["", *parts], ["samples", *(str(row["size"]) for row in self.rows[: len(parts)])]]
        for start in range(0, len(self.rows), len(parts)):
            lines += _block(self.rows[start : start + len(parts)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in lines
        ]
        calm = f"no part deviates (each against the others; Holm, alpha = {self.alpha:g})"
        return "\n".join([*(line.rstrip() for line in text), "", *(self.deviations or [calm])])


def distribution_report(
    columns, parts: Sequence, *, part_names: Sequence[str] | None = None, alpha: float = 0.05
) -> DistributionReport:
    """Compare the distribution of each column in each part with that in the others.

    Categorical columns are compared by Pearson's chi-square test; where more than a fifth of the expected counts are
    below 5 or one is below 1 (Cochran 1954), its p-value comes from up to 10,000 (more with many rows) random divisions
    of the samples into parts of the same sizes, with a fixed seed. Continuous ones are compared by the two-sample
    Kolmogorov-Smirnov test, which is conservative where values repeat. Of all rows together, Holm's method (1979)
    keeps the probability of a false alarm below `alpha`.

    Large samples make every difference significant, so each deviation is named with its size, `effect`: the greatest
    difference between the probabilities that the part and the others give to any set of values (total variation,
    categorical) or to the values up to any threshold (the Kolmogorov-Smirnov statistic). Below 0.08 it is negligible,
    below 0.2 slight, below 0.31 moderate, else strong: between two normal distributions these are shifts of 0.2, 0.5
    and 0.8 standard deviations, Cohen's (1988) small, medium and large effects.

    Parameters
    ----------
    columns : array_like, dict or data frame
        As `stratify` of `RotatingKFold.split`. Continuous columns are not binned here.
    parts : sequence of int arrays
        The sample indices of at least two parts, no sample in two of them: train, validation and test of a round, or
        all folds. Samples in no part are left out.
    part_names : sequence of str, optional
        By default train, validation and test for three parts, otherwise part 1, part 2, ...
    alpha : float
        In (0, 1).

    Returns
    -------
    DistributionReport

    Raises
    ------
    TypeError, ValueError
        Columns as `RotatingKFold.split` refuses them; a part that is empty or no array of indices; indices out of
        range or in two parts; names that do not fit the parts.
    ImportError
        scipy is missing: it comes with the extra `sklearn`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.model_selection import distribution_report
    >>> age = np.arange(100.0) / 2
    >>> print(distribution_report({"age": age}, [np.arange(0, 100, 2), np.arange(1, 100, 2)]))
                            part 1  part 2
    samples                     50      50
    <BLANKLINE>
    age (continuous)
      5%                      2.45    2.95
      25%                    12.25   12.75
      50%                     24.5      25
      75%                    36.75   37.25
      95%                    46.55   47.05
      Kolmogorov-Smirnov     0.020   0.020
      p, after Holm          1.000   1.000
    <BLANKLINE>
    no part deviates (each against the others; Holm, alpha = 0.05)
    >>> print(distribution_report({"age": age}, [np.arange(50), np.arange(50, 100)]).deviations[1])
    part 2 deviates strongly in age: its median is 37.25 where the others' is 12.25 (Kolmogorov-Smirnov 1, p < 0.0001)
    """
    where = "distribution_report"
    check_range(where, "alpha", alpha, np.nextafter(0, 1), 1)
    columns = _columns.read(where, "columns", columns)
    if not columns:
        raise ValueError(f"[{where}] 'columns' must have at least one column but is None")
    try:
        parts = list(parts)
    except TypeError:
        raise TypeError(f"[{where}] 'parts' must be at least two arrays of indices but got {parts!r}") from None
    names = _names(where, part_names, len(parts))
    parts = _check_parts(where, parts, names, len(columns[0].values))
    resamples = resamples_for(len(columns) * len(parts), alpha)
    rows, words = [], []
    for column in columns:
        for k, (name, part) in enumerate(zip(names, parts, strict=True)):
            others = np.concatenate([*parts[:k], *parts[k + 1 :]])
            compare = _compare_numbers if column.kind == "continuous" else _compare_shares
            found, difference = compare(column, part, others, resamples)
            head = {"column": column.name or "label", "kind": column.kind, "part": name, "size": len(part)}
            rows.append(head | {"shares": None, "quantiles": None} | found)
            words.append(difference)
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_adjusted": p, "deviates": p < alpha}
    deviations = [_sentence(row, text) for row, text in zip(rows, words, strict=True) if row["deviates"]]
    return DistributionReport(rows, deviations, alpha)


def _compare_shares(column: Column, part: np.ndarray, others: np.ndarray, resamples: int) -> tuple[dict, str]:
    """(what the row of a categorical column says, the greatest difference in words)."""
    own, rest = (np.bincount(column.values[indices], minlength=len(column.classes)) for indices in (part, others))
    statistic, p = chi_square(own, rest, resamples)
    shares, rest_shares = own / own.sum(), rest / rest.sum()
    most = np.lexsort((rest_shares, -np.abs(shares - rest_shares).round(9)))[0]  # of two values the rarer
    difference = f"{shares[most]:.1%} of it are {column.classes[most]} where {rest_shares[most]:.1%} of the others are"
    return {
        "shares": dict(zip(column.classes, shares.tolist(), strict=True)),
        "test": "chi-square",
        "statistic": statistic,
        "p_value": p,
        "effect": total_variation(own, rest),
    }, difference


def _compare_numbers(column: Column, part: np.ndarray, others: np.ndarray, resamples: int) -> tuple[dict, str]:
    """(what the row of a continuous column says, the difference of the medians or else the greatest in words)."""
    own, rest = column.values[part], column.values[others]
    statistic, p = kolmogorov_smirnov(own, rest)
    quantiles, rest_quantiles = np.quantile(own, _QUANTILES), np.quantile(rest, _QUANTILES)
    most = _QUANTILES.index(0.5)
    if _number(quantiles[most]) == _number(rest_quantiles[most]):
        most = np.abs(quantiles - rest_quantiles).argmax()
    which = "median" if _QUANTILES[most] == 0.5 else f"{_QUANTILES[most]:.0%} quantile"
    difference = f"its {which} is {_number(quantiles[most])} where the others' is {_number(rest_quantiles[most])}"
    return {
        "quantiles": dict(zip(_QUANTILES, quantiles.tolist(), strict=True)),
        "test": "Kolmogorov-Smirnov",
        "statistic": statistic,
        "p_value": p,
        "effect": statistic,
    }, difference


def _sentence(row: dict, difference: str) -> str:
    size = next(word for limit, word in _SIZES if row["effect"] < limit)
    p = "p < 0.0001" if row["p_adjusted"] < 1e-4 else f"p = {row['p_adjusted']:.4f}"
    return f"{row['part']} deviates {size} in {row['column']}: {difference} ({row['test']} {row['statistic']:.3g}, {p})"


def _block(rows: list[dict]) -> list[list[str]]:
    """The table's lines of one column."""
    empty = [""] * len(rows)
    lines = [["", *empty], [f"{rows[0]['column']} ({rows[0]['kind']})", *empty]]
    if rows[0]["kind"] == "continuous":
        for q in _QUANTILES:
            lines.append([f"  {q:.0%}", *(_number(row["quantiles"][q]) for row in rows)])
    else:
        listed = list(rows[0]["shares"])
        if len(listed) > _SHOWN:
            common = sorted(listed, key=lambda name: -sum(row["shares"][name] * row["size"] for row in rows))
            listed = [name for name in listed if name in common[: _SHOWN - 1]]
        for name in listed:
            lines.append([f"  {_short(name)}", *(f"{row['shares'][name]:.1%}" for row in rows)])
        if more := len(rows[0]["shares"]) - len(listed):
            rest = (1 - sum(row["shares"][name] for name in listed) for row in rows)
            lines.append([f"  {more} more", *(f"{abs(share):.1%}" for share in rest)])
    lines.append([f"  {rows[0]['test']}", *(f"{row['statistic']:.3f}" for row in rows)])
    if rows[0]["kind"] == "categorical":
        lines.append(["  effect", *(f"{row['effect']:.3f}" for row in rows)])
    lines.append(["  p, after Holm", *(f"{row['p_adjusted']:.3f}{'*' * row['deviates']}" for row in rows)])
    return lines


def _number(value: float) -> str:
    return f"{value:.{4 if abs(value) < 1e4 else 9}g}"


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:27] + "..."


def _check_parts(where: str, parts: Sequence, names: list[str], n_samples: int) -> list[np.ndarray]:
    owner = np.full(n_samples, -1)
    arrays = []
    for k, (name, part) in enumerate(zip(names, parts, strict=True)):
        part = np.asarray(part)
        if part.ndim != 1 or not len(part):
            raise ValueError(
                f"[{where}] {name} must be indices of shape (size,), not empty, but has shape {part.shape}"
            )
        if part.dtype.kind not in "iu":
            raise TypeError(f"[{where}] {name} must be integer indices but got {part.dtype}")
        outside = (part < 0) | (part >= n_samples)
        if outside.any():
            raise ValueError(f"[{where}] {name} has index {part[outside][0]}, outside of the {n_samples} samples")
        twice = owner[part] >= 0
        if twice.any():
            index = part[twice][0]
            raise ValueError(f"[{where}] {names[owner[index]]} and {name} overlap: both have sample {index}")
        part = part.astype(np.int64)  # beside others, unsigned ones would become floats
        owner[part] = k
        if (owner == k).sum() < len(part):
            raise ValueError(f"[{where}] {name} has a sample twice")
        arrays.append(part)
    return arrays


def _names(where: str, part_names, n_parts: int) -> list[str]:
    if n_parts < 2:
        raise ValueError(f"[{where}] 'parts' must be at least two arrays of indices but got {n_parts}")
    if part_names is None:
        return ["train", "validation", "test"] if n_parts == 3 else [f"part {k + 1}" for k in range(n_parts)]
    names = list(part_names) if np.iterable(part_names) else []
    if len(set(names)) != n_parts or len(names) != n_parts or not all(isinstance(name, str) for name in names):
        raise ValueError(f"[{where}] 'part_names' must be {n_parts} different strings but got {part_names!r}")
    return names
