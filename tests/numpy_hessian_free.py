"""An update of HessianFree in NumPy, with a dense Gauss-Newton matrix by automatic differentiation.

Only derivatives come from TensorFlow, those of a stock model; CG, the way back, damping and what is
kept are written out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from brute_force import flat, gauss_newton


class NumpyHessianFree:
    """The weights, and what an update remembers.

    Attributes:
        w: All weights as one vector.
        tau: τ.
        rho: ρ.
        solution: The last iterate of CG.
        iterations: Iterations of the last search.
        chosen: Number of the iterate that was proposed.
        rejected: Steps that were taken back.
        inverse: What preconditions: a dense matrix.
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        damping: float,
        most_iterations: int,
        tolerance: float,
        warm_start: float,
        l2: float = 0.0,
    ) -> None:
        """Start from the weights of a stock model."""
        self.model, self.loss = model, loss
        self.variables = model.trainable_variables
        self.w = flat(model.get_weights())
        self.tau, self.warm_start = damping, warm_start
        self.most_iterations, self.tolerance = most_iterations, tolerance
        self.eta = 2 * l2 * flat([np.full(v.shape, v.ndim == 2, "float64") for v in self.variables])
        self.kept_at = sorted({n for k in range(99) if (n := math.ceil(1.3**k)) < most_iterations})
        self.solution, self.rho, self.rejected = np.zeros_like(self.w), 0.0, 0
        self.inverse = np.eye(len(self.w))
        self.first_objective = None

    def set_weights(self, w: np.ndarray) -> None:
        """Give the model a vector of weights."""
        for variable in self.variables:
            size = int(np.prod(variable.shape))
            variable.assign(np.reshape(w[:size], variable.shape))
            w = w[size:]

    def objective(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
        """The loss and the L2 penalty."""
        self.set_weights(w)
        return float(self.loss(y, self.model(x))) + 0.5 * w @ (self.eta * w)

    def gradient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The gradient of the objective."""
        self.set_weights(self.w)
        with tf.GradientTape() as tape:
            value = self.loss(y, self.model(x))
        gradients = tape.gradient(value, [v.value for v in self.variables])
        return flat(gradients) + self.eta * self.w

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """One update, compared in any case."""
        g = self.gradient(x, y)
        matrix = gauss_newton(self.model, x, y, self.loss, self.variables)
        matrix += np.diag(self.tau + self.eta)
        iterates, values = self.search(matrix, -g)
        self.solution, self.iterations = iterates[-1], len(iterates) - 1

        before = self.objective(x, y, self.w)
        numbers = [n for n in self.kept_at if n < self.iterations] + [self.iterations]
        best = math.inf
        for number in reversed(numbers):
            value = self.objective(x, y, self.w + iterates[number])
            if value >= best:
                break
            best, self.chosen = value, number
        x_chosen, predicted = iterates[self.chosen], values[self.chosen]
        curved = x_chosen @ matrix @ x_chosen / 2
        self.rho = 1 - (best - before - predicted) / curved
        if self.rho > 3 / 4:
            self.tau *= 2 / 3
        elif self.rho < 0:
            self.tau *= 2
        elif self.rho < 1 / 4:
            self.tau *= 3 / 2
        if best > before and self.rho < 0:
            self.rejected += 1
        else:
            self.w = self.w + x_chosen

    def search(self, A: np.ndarray, b: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        """Every iterate of preconditioned CG, and the model there."""

        def model(x: np.ndarray) -> float:
            return x @ A @ x / 2 - b @ x

        start = self.warm_start * self.solution
        x = start if model(start) < 0 else np.zeros_like(b)
        r = b - A @ x
        z = p = self.inverse @ r
        iterates, values = [x], [model(x)]
        for i in range(1, self.most_iterations + 1):
            alpha = (r @ z) / (p @ A @ p)
            x, old = x + alpha * p, r @ z
            r = r - alpha * A @ p
            z = self.inverse @ r
            p = z + (r @ z) / old * p
            iterates.append(x)
            values.append(model(x))
            k = max(10, int(0.1 * i))
            if i > k and (values[i] - values[i - k]) / values[i] <= k * self.tolerance:
                break
        return iterates, values
