"""Optimizers on functions that can be looked at: paths, step sizes, curvature and noise, as figures and numbers.

>>> import fusedstep as fs
>>> bowl = fs.landscape.parabola(curvature=0.5)
>>> for lr in (1 / 2, 3 / 2, 6):
...     run = fs.landscape.trajectory(lambda params: fs.optim.SGD(params, lr=lr), bowl.f, bowl.grad, start=4.0, steps=3)
...     print(lr, run.points)
0.5 [4.     3.     2.25   1.6875]
1.5 [4.     1.     0.25   0.0625]
6 [  4.  -8.  16. -32.]
"""

from .descent import Trajectory, trajectory
from .drawing import plot_levels, plot_steps, plot_values
from .functions import Function, Quadratic, ill_conditioned, parabola, plateau, quadratic, rosenbrock, saddle, wells
from .noise import Band, band, noisy

__all__ = [
    "Band",
    "Function",
    "Quadratic",
    "Trajectory",
    "band",
    "ill_conditioned",
    "noisy",
    "parabola",
    "plateau",
    "plot_levels",
    "plot_steps",
    "plot_values",
    "quadratic",
    "rosenbrock",
    "saddle",
    "trajectory",
    "wells",
]
