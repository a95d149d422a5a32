"""Three step sizes, the path of momentum, and the floor of noise: numbers and, with matplotlib, figures."""

import fusedstep as fs

bowl = fs.landscape.parabola(curvature=0.5)
runs = {}
for lr in (1 / 2, 3 / 2, 6):  # slow, good, diverges
    runs[f"lr {lr:g}"] = fs.landscape.trajectory(
        lambda params, lr=lr: fs.optim.SGD(params, lr=lr), bowl.f, bowl.grad, start=4.0, steps=10
    )
print(runs)

valley = fs.landscape.ill_conditioned(condition=10.0)
lr, momentum = valley.heavy_ball  # Polyak's, from the curvatures
heavy = fs.landscape.trajectory(
    lambda params: fs.optim.Momentum(params, lr, momentum), valley.f, valley.grad, valley.start, steps=40
)
print("momentum", heavy)


def noisy_run(seed):
    gradient = fs.landscape.noisy(bowl.grad, scale=1.0, seed=seed)
    return fs.landscape.trajectory(lambda params: fs.optim.SGD(params, lr=0.5), bowl.f, gradient, start=4.0, steps=100)


print("floor of the noise", fs.landscape.band(noisy_run, seeds=50))
try:
    fs.landscape.plot_steps(bowl, runs, path="steps.png")
    fs.landscape.plot_levels(valley, {"momentum": heavy}, path="levels.png")
except ImportError as error:
    print(error)
