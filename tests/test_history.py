import json
import math
import sys

import pytest

from fusedstep.history import History
from fusedstep.plot import plot_histories


def history(losses=(0.9, 0.5, 0.7)):
    rows = [
        {"epoch": i, "train_loss": 1 / i, "validation_loss": loss, "lr": 0.1, "seconds": 0.5}
        for i, loss in enumerate(losses, start=1)
    ]
    return History(rows)


def test_best_epoch():
    assert history().best_epoch == 2
    assert history((math.nan, 0.5, 0.4)).best_epoch == 3
    assert history((math.nan,)).best_epoch is None
    assert History().best_epoch is None
    assert History([{"epoch": 1, "train_loss": 1.0}]).best_epoch is None
    restored = history()
    restored.restored_epoch = 1
    assert restored.best_epoch == 1


def test_column():
    assert history().column("validation_loss") == [0.9, 0.5, 0.7]
    with pytest.raises(KeyError):
        history().column("accuracy")


def test_json_keeps_every_bit(tmp_path):
    before = history((0.1 + 0.2, math.inf, -math.inf))
    before.stopped_by, before.interrupted, before.restored_epoch = "me", True, 1
    path = tmp_path / "history.json"
    before.to_json(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert History.from_json(path) == before
    history((math.nan,)).to_json(path)
    assert math.isnan(History.from_json(path).rows[0]["validation_loss"])


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"rows": 3}', '{"rows": [1]}'])
def test_foreign_json_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"foreign\.json: not a history"):
        History.from_json(path)


def test_plot_marks_the_best_epoch_without_pyplot(tmp_path):
    pytest.importorskip("matplotlib")
    had_pyplot = "matplotlib.pyplot" in sys.modules
    figure = history().plot(tmp_path / "curves.png")
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (panel,) = figure.axes
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert list(lines["train"].get_ydata()) == [1, 1 / 2, 1 / 3]
    assert list(lines["best epoch"].get_xydata()[0]) == [2, 0.5]
    assert panel.get_xlabel() == "epoch" and panel.get_ylabel().startswith("loss")


def test_plot_of_several_runs():
    pytest.importorskip("matplotlib")
    figure = plot_histories([history()] * 5, [f"fold {i}" for i in range(1, 6)])
    assert [panel.get_title() for panel in figure.axes] == [f"fold {i}" for i in range(1, 6)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"epoch": 1, "train_loss": 0.5}],
        [{"epoch": 1, "train_loss": math.nan, "validation_loss": math.nan}],
        [{"epoch": i, "train_loss": -1.0 * i, "validation_loss": math.inf} for i in (1, 2)],
    ],
)
def test_plot_of_unusual_runs(rows, tmp_path):
    pytest.importorskip("matplotlib")
    History(rows).plot(tmp_path / "curves.png")


def test_nothing_to_plot():
    with pytest.raises(ValueError, match="no epoch to draw"):
        History().plot()


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[plot\]'"):
        history().plot()


def test_plot_without_a_finite_loss(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [{"epoch": 1, "train_loss": math.nan, "validation_loss": math.inf}]
    History(rows).plot(tmp_path / "curve.png")
