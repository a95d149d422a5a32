"""Paths of batch, mini-batch and single-example descent over the level lines of a least-squares loss."""

import numpy as np
from _figure import BLACK, GRAY, LINES, MARKS, claim, new, save
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

import fusedstep as fs

X, y = load_diabetes(return_X_y=True)
X, y = StandardScaler().fit_transform(X[:, [2, 8]]), y - y.mean()  # body mass index and a blood value
best = np.linalg.lstsq(X, y)[0]


def cost(w):
    return float(np.mean((X @ w - y) ** 2)) / 2


first, second = np.linspace(-30, 62, 90), np.linspace(-2, 76, 90)
heights = np.array([[cost([a, b]) for a in first] for b in second])
rests = {}  # how far the last steps are from the minimum
figure, panels = new(1, 3, width=8.5, height=3.6, sharex=True, sharey=True)
sizes = {"Batch: all 442 samples": 442, "Mini-batch: 32 samples": 32, "One sample a step": 1}
for panel, (name, size), (color, _) in zip(panels, sizes.items(), LINES, strict=False):
    rng = np.random.default_rng(1)

    def gradient(w, rng=rng, size=size):
        batch = rng.permutation(len(X))[:size]
        return X[batch].T @ (X[batch] @ w - y[batch]) / size

    run = fs.landscape.trajectory(lambda params: fs.optim.SGD(params, lr=0.1), cost, gradient, [-20.0, 50.0], steps=100)
    far = np.linalg.norm(run.points[50:] - best, axis=1).mean()
    rests[size] = np.linalg.norm(run.points[-10:] - best, axis=1).mean()
    print(f"{name}: in the second half {far:.2f} from the minimum in the mean, costs {cost(run.final):.0f} at the end")
    panel.contour(first, second, heights, levels=cost(best) + np.geomspace(30, 2000, 5), colors=GRAY, linewidths=0.6)
    panel.plot(*run.points.T, "o-", color=color, markersize=2.5, linewidth=1)
    panel.plot(*run.points[0], "o", color=color, markersize=8, markerfacecolor="white")
    panel.plot(*best, "*", color=BLACK, markersize=12, zorder=4)
    panel.grid(False)
    panel.set(title=name, xlabel="weight of the body mass [per s.d.]", aspect="equal")
whole, *noisy = rests.values()
claim("the two that are noisy do not come to rest at the star", all(5 * whole < rest for rest in noisy))
panels[0].set_ylabel("weight of the triglycerides [per s.d.]")
figure.suptitle(
    f"{run.steps} steps of the same size: the fewer samples in a step, the more it is led astray\n({MARKS})"
)
save(figure)
