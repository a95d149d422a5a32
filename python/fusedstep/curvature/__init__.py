"""How a loss bends: products with its Hessian and its Gauss-Newton matrix, and the ends of their spectra."""

from .extremes import Extremes, extremes
from .matrices import GaussNewton, Hessian

__all__ = ["Extremes", "GaussNewton", "Hessian", "extremes"]
