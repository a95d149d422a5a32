"""Pictures of paths, level lines and values: what is in them, and no warning of what has no place there."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fusedstep import landscape, optim
from fusedstep.landscape import Function, trajectory
from test_landscape import FUNCTIONS, F, descend, sgd


def test_steps_on_a_curve(tmp_path):
    pytest.importorskip("matplotlib")
    had_pyplot = "matplotlib.pyplot" in sys.modules
    runs = {f"lr {lr}": descend(F, sgd(lr), 6) for lr in (0.5, 1.5, 6.0, 1.0)}
    figure = landscape.plot_steps(F, runs, path=tmp_path / "steps.png")
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot and (tmp_path / "steps.png").stat().st_size > 10_000
    assert [panel.get_title() for panel in figure.axes] == list(runs)
    curve, star, path, start = figure.axes[2].get_lines()
    assert curve.get_ydata().min() == pytest.approx(0, abs=1e-3) and star.get_xdata().tolist() == [0]
    assert path.get_xdata().tolist() == runs["lr 6.0"].points.tolist() and start.get_xdata() == [4.0]
    assert figure.axes[0].get_xlim() == (-5, 5)  # the path that diverges does not widen it
    overflowed = descend(F, sgd(6.0), 2000)
    landscape.plot_steps(F, {"diverges": overflowed}, path=tmp_path / "diverges.png")


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.domain and len(f.domain) == 2], ids=lambda f: f.name)
def test_paths_over_level_lines(function, tmp_path):
    pytest.importorskip("matplotlib")
    runs = {"descent": descend(function, sgd(1e-3), 20), "Adam": descend(function, optim.Adam, 100)}
    figure = landscape.plot_levels(function, runs, path=tmp_path / "levels.png")
    (panel,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(runs)
    drawn = {line.get_label(): line.get_xydata() for line in panel.get_lines()}
    assert all((drawn[name] == run.points).all() for name, run in runs.items())
    assert panel.get_title() == function.name and panel.get_xlim() == function.domain[0]


def test_the_path_of_the_example_stays_in_its_picture(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "landscape.py"))
    low, high = np.transpose(made["valley"].domain)
    assert ((low < made["heavy"].points) & (made["heavy"].points < high)).all()


def test_values_by_step(tmp_path):
    pytest.importorskip("matplotlib")
    noisy = landscape.band(lambda seed: trajectory(sgd(0.5), F.f, landscape.noisy(F.grad, 1.0, seed), 4.0, 30), 5)
    runs = {"plain": descend(F, sgd(0.5), 30), "noisy": noisy, "diverges": descend(F, sgd(6.0), 2000)}
    (panel,) = landscape.plot_values(runs, path=tmp_path / "values.png").axes
    assert panel.get_yscale() == "log" and panel.get_ylabel() == "f(x)" and len(panel.collections) == 1
    assert [text.get_text() for text in panel.get_legend().get_texts()] == list(runs)
    (panel,) = landscape.plot_values({"noisy": noisy}, minimum=1e-3, log_steps=True).axes
    assert panel.get_xscale() == "log" and panel.get_ylabel() == "f(x) - minimum"
    assert panel.get_lines()[0].get_xdata()[0] == 1
    (panel,) = landscape.plot_values({"far": landscape.band(lambda seed: [1e308, 1e99], 2)}, minimum=-1e308).axes
    assert np.isnan(panel.get_lines()[0].get_ydata()).all()


def test_a_band_goes_on_where_an_edge_is_infinite_or_zero(tmp_path):
    """Drawn beyond the panel, which it does not stretch."""
    pytest.importorskip("matplotlib")

    def run(seed):
        return trajectory(sgd(6.0 if seed == 0 else 0.5 + 0.5 * seed), F.f, F.grad, 4.0, 1500)

    band = landscape.band(run, 4)
    assert band.upper[0] == band.lower[0] == 4 and band.upper[-1] == math.inf and band.lower[-1] == 0
    (panel,) = landscape.plot_values({"runs": band}, path=tmp_path / "band.png").axes
    edges = panel.collections[0].get_paths()[0].vertices
    low, high = panel.get_ylim()
    assert np.isfinite(edges).all() and edges[:, 0].max() == 1500
    last = edges[edges[:, 0] == 1500, 1]
    assert last.min() < low < 1e-30 and 4 < high < 100 < last.max()
    gone = landscape.band(lambda seed: [math.inf, math.nan], 2)
    assert len(landscape.plot_values({"gone": gone}, path=tmp_path / "gone.png").axes) == 1


BOX = ((-1.5, 1.5), (-1.5, 1.5))
RUN = descend(landscape.quadratic([1.0, 1.0]), sgd(0.1), 20, start=[0.5, 0.7])


def picture(f, tmp_path):
    return landscape.plot_levels(Function("f", f, None, domain=BOX), {"a": RUN}, path=tmp_path / "levels.png").axes[0]


@pytest.mark.parametrize(
    ("f", "lines", "grey"),
    [
        (lambda x: 3.0, 0, False),
        (lambda x: float(x[0] > 0), 14, False),
        (lambda x: -np.log(1 - x @ x) + x[0], 14, True),  # NaN outside a circle
        (lambda x: x @ x if x[0] > 0 else math.inf, 14, True),
        (lambda x: x @ x if x[0] > 0 else -math.inf, 14, True),
        (lambda x: math.exp(1e3 * float(x[0])), 14, True),  # an OverflowError
        (lambda x: 2.0 if x[0] > 0 else math.nan, 0, True),
        (lambda x: 1e99 * x[0], 14, False),
        (lambda x: x[1] if abs(x[0]) < 1 else 1e308 * x[0], 14, True),
    ],
    ids=["constant", "step", "nan", "inf", "-inf", "overflow", "constant and nan", "large", "too large"],
)
def test_level_lines_where_a_function_is_constant_or_not_finite(f, lines, grey, tmp_path):
    """No warning, as pytest makes errors of these."""
    pytest.importorskip("matplotlib")
    sets = picture(f, tmp_path).collections
    contours = [collection for collection in sets if not collection.filled]
    assert len(sets) - len(contours) == grey
    assert [len(contour.levels) for contour in contours] == [lines] * (lines > 0)
    assert all(any(len(path.vertices) for path in contour.get_paths()) for contour in contours)


def test_level_lines_above_a_minimum_outside_of_the_domain(tmp_path):
    pytest.importorskip("matplotlib")
    far = Function("f", lambda x: float(x[0]) + 1000, None, domain=BOX, minima=(np.array([-1000.0, 0.0]),))
    (panel,) = landscape.plot_levels(far, {"a": RUN}, path=tmp_path / "far.png").axes
    assert sum(len(path.vertices) > 1 for path in panel.collections[0].get_paths()) >= 12


@pytest.mark.parametrize(
    ("f", "low", "high"),
    [
        (lambda x: 3.0, 2, 4),
        (lambda x: np.log(x), -5, 1.2),
        (lambda x: math.inf if x < 0 else float(x), -0.2, 2.2),
        (lambda x: 1e20, 0.95e20, 1.05e20),
        (lambda x: -1e20, -1.05e20, -0.95e20),
        (lambda x: 1e99 * x, -2.32e99, 2.32e99),
        (lambda x: float(x) if abs(x) < 1 else math.copysign(1e308, x), -1.2, 1.2),
    ],
    ids=["constant", "nan", "inf", "large constant", "large negative", "large", "too large"],
)
def test_steps_on_a_curve_that_is_constant_or_not_finite(f, low, high, tmp_path):
    pytest.importorskip("matplotlib")
    run = descend(F, sgd(0.5), 5, start=1.0)
    function = Function("f", f, None, domain=((-2.0, 2.0),))
    (panel,) = landscape.plot_steps(function, {"a": run}, path=tmp_path / "steps.png").axes
    bottom, top = panel.get_ylim()
    assert (bottom, top) == pytest.approx((low, high), abs=1, rel=0.01)


def test_six_lines_each_have_a_look_of_their_own():
    pytest.importorskip("matplotlib")
    runs = {f"lr {lr}": descend(landscape.saddle(), sgd(lr), 5) for lr in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)}
    for panel in (*landscape.plot_values(runs).axes, *landscape.plot_levels(landscape.saddle(), runs).axes):
        assert len({line.get_color() for line in panel.get_lines() if line.get_label() in runs}) == 6


def test_bad_pictures_are_refused():
    run = descend(F, optim.SGD, 3)
    with pytest.raises(TypeError, match=r"\[plot_steps\] 'function' must be a fusedstep.landscape.Function but got"):
        landscape.plot_steps(abs, {"a": run})
    with pytest.raises(ValueError, match=r"\[plot_levels\] 'function' must have a domain of 2 \(low, high\)"):
        landscape.plot_levels(F, {"a": run})
    for where, domain, path in (("plot_steps", BOX[:1], run), ("plot_levels", BOX, RUN)):
        nowhere = Function("nowhere", lambda x: math.nan, None, domain=domain)
        with pytest.raises(ValueError, match=rf"\[{where}\] 'function' is finite nowhere in its domain"):
            getattr(landscape, where)(nowhere, {"a": path})
        large = Function("large", lambda x: 1e308, None, domain=domain)
        with pytest.raises(ValueError, match=rf"\[{where}\] 'function' is finite nowhere .* \(beyond 1e\+100"):
            getattr(landscape, where)(large, {"a": path})
        text = Function("text", lambda x: "?", None, domain=domain)
        with pytest.raises(TypeError, match=rf"\[{where}\] 'f' must give a number but gave <U1"):
            getattr(landscape, where)(text, {"a": path})
    with pytest.raises(ValueError, match=r"\[plot_steps\] there is nothing to draw"):
        landscape.plot_steps(F, {})
    with pytest.raises(TypeError, match=r"\[plot_values\] takes a dict of names and Trajectory or Band but got"):
        landscape.plot_values([run])
    with pytest.raises(ValueError, match=r"paths must have points of shape \(2,\) but 'a' has those of \(\)"):
        landscape.plot_levels(landscape.saddle(), {"a": run})
    without = descend(F, optim.SGD, 3, keep_points=False)
    with pytest.raises(ValueError, match=r"but 'a' keeps none \(keep_points=False\)"):
        landscape.plot_steps(F, {"a": without})


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[plot\]'"):
        landscape.plot_steps(F, {"a": descend(F, optim.SGD, 3)})
