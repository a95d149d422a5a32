"""Whitening and batch norm: the condition of a linear model on inputs and on hidden units, and descent on it."""

import numpy as np
from _figure import LINES, claim, new, save
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import fusedstep as fs

X, labels = load_wine(return_X_y=True)
y, loss = (labels == 0).astype(np.float64).reshape(-1, 1), fs.nn.MeanSquaredError()
scaled = StandardScaler().fit_transform(X)
inputs = {
    "raw": X,
    "standardized": scaled,
    "PCA-whitened": PCA(whiten=True).fit_transform(scaled),
    "ZCA-whitened": fs.sklearn.ZCA().fit_transform(scaled),
}
hidden = {}  # what a second layer gets from the first one
for name, norm in (("sigmoid units", []), ("with batch norm", [fs.nn.BatchNorm(8)])):
    first = fs.nn.Sequential(fs.nn.Dense(13, 8), fs.nn.Sigmoid(), *norm, seed=0, dtype=np.float64)
    hidden[name] = first.forward(scaled)

conditions, descents = {}, {}
figure, panels = new(2, 2, width=10, height=6, sharex="col")
for (bars, curves), kinds in zip(panels, (inputs, hidden), strict=True):
    for place, (name, x) in enumerate(kinds.items()):
        model = fs.nn.Sequential(fs.nn.Dense(x.shape[1], 1, init="zeros"), dtype=np.float64)
        curvature = fs.curvature.extremes(model, loss, x, y)
        condition = conditions[name] = round(curvature.condition, 3)
        color, dashes = LINES[place]
        bars.barh(place, condition - 1, left=1, height=0.6, color=color)
        bars.text(1.4 * condition, place, f"{condition:.3f}" if condition < 10 else f"{condition:.3g}", va="center")

        columns = np.column_stack([x, np.ones(len(x))])
        least = np.mean((columns @ np.linalg.lstsq(columns, y, rcond=None)[0] - y) ** 2)
        optimizer, losses = fs.optim.SGD(model.parameters(), lr=curvature.stable_step / 2), []
        for _ in range(201):
            value, gradient = loss(model.forward(x), y)
            losses.append(max(value - least, 1e-16))
            model.backward(gradient)
            optimizer.step()
        descents[name] = np.divide(losses, losses[0])
        curves.plot(descents[name], color=color, linestyle=dashes, linewidth=1.8, label=name)
        print(f"{name}: condition {condition:.4g}, {descents[name][-1]:.1g} of the loss is left after 200 steps")
    bars.set_yticks(range(len(kinds)), kinds)
    bars.set(xscale="log", xlim=(1, 1e12))
    bars.grid(axis="y", visible=False)
    bars.invert_yaxis()
    curves.set(yscale="log", ylim=(1e-9, 2), xlim=(-2, 200), ylabel="loss above its minimum (start: 1)")
    curves.legend(loc="lower left", bbox_to_anchor=(0.06, 0.03))
panels[0, 0].set_title("Condition of a linear model on inputs ...")
panels[1, 0].set(title="... and on a hidden layer", xlabel="condition number of the Hessian")
panels[0, 1].set_title("Descent at half the largest stable step")
panels[1, 1].set(xlabel="step of gradient descent")
raw, standard, whitened, _, sigmoid, normed = conditions.values()
claim("standardizing the inputs takes seven decades off its condition", round(np.log10(raw / standard)) == 7)
claim(f"whitening leaves {whitened}")
claim(
    "gradient descent then needs two steps in place of hundreds",
    descents["PCA-whitened"][2] < 1e-8 < descents["standardized"][200],
)
claim(f"the condition falls from {sigmoid:.0f} to {normed:.0f}")
save(figure)
