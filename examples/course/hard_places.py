"""A plateau, a saddle point and Rosenbrock's curved valley: four optimizers on their way, and how long it is."""

import numpy as np
from _figure import BLACK, GRAY, LINES, claim, new, save

import fusedstep as fs

places = {  # title, step sizes, how many steps, and the step of the marks
    "plateau": ("Plateau, x² / (1 + x²)", (0.5, 0.2, 0.05, 0.1), 400, 45),
    "saddle": ("Saddle point", (0.1, 0.02, 0.02, 0.05), 150, 30),
    "rosenbrock": ("Rosenbrock's valley", (1e-3, 5e-4, 5e-3, 0.1), 1500, 200),
}
figure, panels = new(2, 3, width=9.5, height=5.6)
needed = {}  # steps to a hundredth of the start
for (above, below), (name, (title, lrs, steps, now)) in zip(panels.T, places.items(), strict=True):
    hill = getattr(fs.landscape, name)()
    optimizers = {
        "plain descent": lambda params, lr=lrs[0]: fs.optim.SGD(params, lr=lr),
        "momentum": lambda params, lr=lrs[1]: fs.optim.Momentum(params, lr=lr, momentum=0.9),
        "RMSprop": lambda params, lr=lrs[2]: fs.optim.RMSprop(params, lr=lr, alpha=0.9),
        "Adam": lambda params, lr=lrs[3]: fs.optim.Adam(params, lr=lr),
    }
    flat = name == "plateau"  # of one dimension: the curve is drawn, elsewhere level lines
    x, y = (np.linspace(*ends, 100) for ends in (hill.domain * 2)[:2])
    if flat:
        above.plot(x, hill.f(x), color=GRAY, linewidth=1)
        above.set_xlim(-2.5, 7)
    else:
        heights = np.array([[hill.f(np.array([a, b])) for a in x] for b in y]) - hill(hill.minimum)
        above.contour(x, y, heights, np.geomspace(heights.max() / 500, heights.max(), 5), colors=GRAY, linewidths=0.6)
        above.grid(False)
    for minimum in hill.minima:
        star = above.plot(*((minimum, 0) if flat else minimum), "*", color=BLACK, markersize=12, label="minimum")
    for (label, optimizer), (color, dashes), mark in zip(optimizers.items(), LINES, "os^D", strict=False):
        run = fs.landscape.trajectory(optimizer, hill.f, hill.grad, hill.start, steps)
        left = run.values - hill(hill.minimum)
        needed[name, label] = np.argmax(left < left[0] / 100)
        print(f"{name}, {label}: to a hundredth of the start in {needed[name, label]} steps")
        path = np.transpose([run.points, run.values] if flat else run.points.T)[: now + 1]
        above.plot(*path.T, linestyle=dashes, color=color, linewidth=1.2)
        above.plot(*path[-1], mark, color=color, markersize=8, markeredgecolor="white")
        looks = {"linestyle": dashes, "color": color, "linewidth": 1.5, "marker": mark, "markersize": 8}
        below.plot(left, **looks, markeredgecolor="white", markevery=[now], label=label)
    above.set_title(f"{title}\nmarks: after {now} steps", fontsize=10)
    above.set(xlabel="x", ylabel="f(x)" if flat else "y")
    below.set(xlabel="step", ylabel="f - minimum", yscale="log", ylim=(1e-4, 60))
figure.legend(handles=[*below.get_lines(), *star], loc="outside lower center", ncols=5)
claim(
    "plain descent waits, and a step that is divided by the size of the gradient does not",
    all(needed[name, method] < needed[name, "plain descent"] for name in places for method in ("RMSprop", "Adam")),
)
save(figure)
