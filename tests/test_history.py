import json
import math
import sys

import numpy as np
import pytest

from fusedstep.history import History
from fusedstep.plot import LINES, plot_histories


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


def test_repr_is_one_line():
    rows = [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.23456}]
    assert repr(History()) == "History(0 epochs)"
    assert repr(History(rows[:1], interrupted=True)) == "History(1 epoch, last train loss 2, interrupted)"
    rows = [{**row, "validation_loss": 3.0 - row["epoch"]} for row in rows]
    assert repr(History(rows, "Stop: why")) == "History(2 epochs, best 2 with a validation loss of 1, Stop: why)"


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


def test_json_takes_numbers_of_numpy(tmp_path):
    rows = [{"epoch": np.int64(1), "train_loss": np.float32(0.5), "validation_loss": np.float32("inf")}]
    History(rows).to_json(tmp_path / "history.json")
    assert History.from_json(tmp_path / "history.json").rows == rows


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


def test_a_value_between_gaps_is_a_point():
    pytest.importorskip("matplotlib")
    nan = math.nan
    figure = runs([nan, 2.0, math.inf, 1, 1, nan, 3], [1.0, nan, 2, 2, 2, 2, 2], rmse=[5.0] * 7).plot()
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert lines["train"].get_marker() == "o" and lines["train"].get_markevery() == [1, 6]
    assert lines["validation"].get_marker() == "o" and lines["validation"].get_markevery() == [0]
    assert history().plot().axes[0].get_lines()[0].get_marker() == "None"


def test_titles_are_one_for_each_history():
    with pytest.raises(ValueError, match=r"\[plot\] 'titles' must be one for each of 2 histories but got 1"):
        plot_histories([history(), history()], ["fold 1"])


def runs(train, validation, **metrics):
    names = ("train_loss", "validation_loss", *metrics)
    columns = zip(train, validation, *metrics.values(), strict=True)
    return History([{"epoch": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(columns, start=1)])


def shades(panel):
    return [c for c in panel.collections if c.get_label() == "overfitting"]


def legend(figure):
    return [text.get_text() for part in (*figure.legends, figure.axes[0].get_legend()) if part for text in part.texts]


def test_the_area_where_the_curves_part_is_shaded():
    pytest.importorskip("matplotlib")
    figure = runs([4.0, 3, 2, 1], [5.0, 3.5, 4, 6]).plot()
    (shade,) = shades(figure.axes[0])
    (path,) = shade.get_paths()
    corners = {tuple(map(float, corner)) for corner in path.vertices}
    # From the best epoch, 2, to the last, between train and validation loss.
    assert corners == {(2, 3), (3, 2), (4, 1), (4, 6), (3, 4), (2, 3.5)}
    assert legend(figure) == ["train", "validation", "overfitting", "best epoch"]


def test_the_shade_begins_where_the_curves_cross():
    pytest.importorskip("matplotlib")
    (shade,) = shades(runs([4.0, 3, 2, 1], [3.0, 2, 3, 3]).plot().axes[0])
    corners = [tuple(map(float, corner)) for path in shade.get_paths() for corner in path.vertices]
    assert min(corners)[0] == 2.5 and (4, 3) in corners


@pytest.mark.parametrize(
    ("train", "validation", "restored"),
    [
        ([4.0, 3, 2], [5.0, 4, 3], None),  # still getting better
        ([4.0, 3, 2], [5.0, 4, 4], None),  # no worse than the best
        ([4.0, 3, 2.5], [3.0, 1, 2], None),  # worse, but below the train loss, as with dropout
        ([4.0, 3, 2], [5.0, 4, 3], 1),  # the best epoch by another column; the loss goes on falling
        ([4.0], [5.0], None),
        ([4.0, math.nan, math.nan], [5.0, math.nan, math.nan], None),
        ([4.0, 3], [math.inf, math.inf], None),
        ([4.0, 3], [math.nan, math.nan], 1),
    ],
)
def test_nothing_is_shaded_without_overfitting(train, validation, restored, tmp_path):
    pytest.importorskip("matplotlib")
    run = runs(train, validation)
    run.restored_epoch = restored
    figure = run.plot(tmp_path / "curve.png")
    assert shades(figure.axes[0]) == [] and "overfitting" not in legend(figure)


def test_a_diverging_run_is_shaded(tmp_path):
    pytest.importorskip("matplotlib")
    figure = runs([4.0, 3, 2, 1], [5.0, 4, 7, math.inf]).plot(tmp_path / "curve.png")
    (shade,) = shades(figure.axes[0])
    assert max(x for path in shade.get_paths() for x, _ in path.vertices) == 3


def test_metrics_have_their_panels():
    pytest.importorskip("matplotlib")
    run = runs(
        *([4.0, 3], [5.0, 4]),
        validation_accuracy=[0.5, 0.75],
        validation_rmse=[12.0, 9.0],
        validation_roc_auc=[math.nan, 1.0],
        validation_r2=[-1.0, 0.5],
        lr=[0.1, 0.1],
    )
    figure = run.plot()
    loss, shares, rmse, r2 = figure.axes
    assert [line.get_label() for line in shares.get_lines()[:2]] == ["accuracy", "roc_auc"]
    assert [text.get_text() for text in shares.get_legend().texts] == ["accuracy", "roc_auc"]
    assert list(rmse.get_lines()[0].get_ydata()) == [12.0, 9.0]
    assert [p.get_ylabel() for p in (shares, rmse, r2)] == ["validation metrics", "validation rmse", "validation r2"]
    assert [p.get_xlabel() for p in figure.axes] == ["", "", "", "epoch"]
    # Each can be told from the others without its colour where they share a panel.
    lines = shares.get_lines()[:2]
    assert len({line.get_linestyle() for line in lines}) == len({line.get_color() for line in lines}) == 2
    train, validation = loss.get_lines()[:2]
    assert train.get_linestyle() != validation.get_linestyle()
    assert all(list(p.get_lines()[-1].get_xdata()) == [2, 2] for p in (shares, rmse, r2)), "the best epoch"


def test_no_two_lines_of_the_palette_share_a_colour_or_their_dashes():
    colors, dashes = zip(*LINES, strict=True)
    assert len(set(colors)) == len(set(dashes)) == len(LINES) == 6


def test_metrics_are_left_out_of_several_runs():
    pytest.importorskip("matplotlib")
    figure = plot_histories([runs([4.0, 3], [5.0, 4], validation_accuracy=[0.5, 1.0])] * 2)
    assert len(figure.axes) == 2


def test_the_legend_of_several_runs_has_what_any_of_them_has():
    pytest.importorskip("matplotlib")
    good, bad, alone = runs([3.0, 2], [4.0, 3]), runs([3.0, 2], [4.0, 5]), History([{"epoch": 1, "train_loss": 3.0}])
    figure = plot_histories([alone, good, bad])
    assert set(legend(figure)) == {"train", "validation", "overfitting", "best epoch"}
    assert [len(shades(panel)) for panel in figure.axes] == [0, 0, 1]


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
