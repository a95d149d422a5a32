"""Runs of the command line, and the tables and results that its tests write and read."""

from __future__ import annotations

import csv
import json

from fusedstep import cli

QUICK = ("--no-progress", "--epochs", "2", "--hidden", "8", "--cv", "3")
"""Of a `train` that ends at once."""


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    code = cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def train(capsys, *arguments):
    return run(capsys, "train", *arguments)


def write(path, columns):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def rows_of(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))
