"""One step size for each direction: second-order methods beside gradient descent."""

import numpy as np
from _figure import GRAY, LINES, bands, claim, new, save
from sklearn.datasets import load_digits

import fusedstep as fs


class Counting(fs.nn.SoftmaxCrossEntropy):
    """The loss, which is bent once in each product of the curvature with a vector."""

    products = 0

    def hessian_product(self, *arguments):
        self.products += 1
        return super().hessian_product(*arguments)


rng = np.random.default_rng(0)
left, _ = np.linalg.qr(rng.standard_normal((100, 20)))
right, _ = np.linalg.qr(rng.standard_normal((20, 20)))
X = 10 * (left * np.logspace(0, -3, 20)) @ right.T  # curvatures from 1 to 1e-6, twice that for squared errors
valley = (X, X @ right.sum(axis=1, keepdims=True), fs.nn.MeanSquaredError())
images, labels = load_digits(return_X_y=True)
digits = (images[:500] / 16, labels[:500], Counting())


def linear(seed):
    return fs.nn.Sequential(fs.nn.Dense(20, 1, init="zeros", bias=False), dtype=np.float64)


def network(seed):
    return fs.nn.Sequential(fs.nn.Dense(64, 20), fs.nn.Tanh(), fs.nn.Dense(20, 10), seed=seed, dtype=np.float64)


curvature = fs.curvature.extremes(linear(0), valley[2], *valley[:2])
step = 0.99 * curvature.stable_step
on_valley = {
    "gradient descent": (10_000, lambda params: fs.optim.SGD(params, lr=step)),
    "diagonal Gauss-Newton": (1000, lambda params: fs.optim.DiagonalGaussNewton(params, lr=0.1, damping=1e-6)),
    "KFAC": (30, lambda params: fs.optim.KFAC(params, damping=1e-6, every=1)),
    "Gauss-Newton": (10, fs.optim.GaussNewton),
}
on_digits = {
    "gradient descent": (200, lambda params: fs.optim.SGD(params, lr=1.0)),
    "diagonal Gauss-Newton": (200, lambda params: fs.optim.DiagonalGaussNewton(params, lr=0.02, damping=0.01)),
    "KFAC": (60, lambda params: fs.optim.KFAC(params, damping=0.01)),
    "Gauss-Newton": (12, lambda params: fs.optim.GaussNewton(params, damping=0.1, cg_max_iter=30)),
}
figure, panels = new(1, 2, width=10, height=4.6)
medians = {}
settings = ((linear, valley, on_valley, 1), (network, digits, on_digits, 5))
for panel, (make, (x, y, loss), methods, seeds) in zip(panels, settings, strict=True):
    for (name, (steps, optimizer)), (color, dashes) in zip(methods.items(), LINES, strict=False):
        losses = np.empty((seeds, steps + 1))
        loss.products = 0  # those of the last method, Gauss-Newton, are left
        for seed in range(seeds):
            model = make(seed)
            method = optimizer(model.parameters())
            batch = (model, loss, x, y) if getattr(method, "needs_batch", False) else ()
            for k in range(steps + 1):
                losses[seed, k], gradient = loss(model.forward(x), y)
                model.backward(gradient)
                method.step(*batch)
        lower, median, upper = np.quantile(losses / losses[:, :1], (0, 0.5, 1), axis=0)
        shown = range(steps + 1)
        panel.plot(shown, median, color=color, linestyle=dashes, linewidth=1.8, label=name)
        panel.fill_between(shown, lower, upper, color=color, alpha=0.15, linewidth=0)
        print(f"{name}: {median[-1]:.2g} of the loss is left after {steps} steps")
        medians.setdefault(name, []).append(median)
    panel.set(xscale="log", yscale="log", xlabel="step (the whole batch)")
panels[0].axhline(1e-8, color=GRAY, linewidth=1, linestyle="--")
panels[0].set(xlim=(1, 10_000), ylim=(1e-12, 2), ylabel="loss, as a share of the first one")
panels[0].set_title("Least squares of condition 1e6")
panels[0].legend(loc="lower right")
claim("a least-squares problem of condition 1e6", 0.9e6 < curvature.condition < 1.1e6)
newton, plain = medians["Gauss-Newton"], medians["gradient descent"]
claim("is below 1e-8 after five steps", newton[0][5] < 1e-8)
claim(f"gradient descent at its largest stable step is not after {len(plain[0]) - 1:,}", plain[0][-1] > 1e-8)
products = digits[2].products / (seeds * (steps + 1))
claim(f"a step of Gauss-Newton takes {products:.0f} products with the curvature")
panels[1].set(xlim=(1, 200), ylim=(1e-5, 2))
panels[1].set_title(f"A network on digits\n({bands(seeds, 'range')})")
save(figure)
