"""The whole algorithm once more, in plain NumPy, for a net with tanh units and squared error.

Written from the paper's appendix and DESIGN's conventions, without any of the package's parts.
"""

from __future__ import annotations

import numpy as np


class NumpyKFRA:
    """KFRA for dense layers with joint weights `W` of shape (in + 1, out), bias last."""

    def __init__(self, weights, l2, damping, min_damping, damping_decay=0.95, damping_period=3,
                 gradient_decay=0.9, overshoot=0.4, model_fraction=1.0,
                 curvature_decay=0.9, factor_period=2, inverse_period=4, turns=None):  # fmt: skip
        self.W = [np.array(w) for w in weights]
        self.l2 = l2
        self.tau, self.floor = damping, min_damping
        self.inverted = damping
        self.damping_decay, self.damping_period = damping_decay, damping_period
        self.gradient_decay, self.overshoot = gradient_decay, overshoot
        self.model_fraction, self.curvature_decay = model_fraction, curvature_decay
        self.factor_period, self.inverse_period = factor_period, inverse_period
        self.turns = turns or [range(len(weights))]  # layers that one update inverts
        self.t = self.k = self.age = self.turn = 0
        self.A = [np.zeros((len(w), len(w))) for w in weights]
        self.G = [np.zeros((w.shape[1], w.shape[1])) for w in weights]
        self.inverses = [None] * len(weights)
        self.previous = [np.zeros_like(w) for w in weights]
        self.mean = [np.zeros_like(w) for w in weights]
        self.alpha = self.mu = self.rho = 0.0
        self.R, self.trust = 0.0, 1.0  # R is not known yet
        self.agreement = self.usual_overshoot = 0.0
        self.uphill = self.usual_reserve_slope = self.usual_promise = 0.0
        self.reserve = [np.zeros_like(w) for w in weights]
        self.n = 0
        self.own = self.usual_curved = self.usual_objective = 0.0
        # How often, for the tests.
        self.bounded = self.averaged = self.compared = self.shortened = self.given_up = 0

    def forward(self, x, W):
        """Inputs of each layer with their 1, and the outputs."""
        inputs = []
        a = x
        for i, w in enumerate(W):
            inputs.append(np.hstack([a, np.ones((len(a), 1))]))
            h = inputs[-1] @ w
            a = np.tanh(h) if i < len(W) - 1 else h
        return inputs, a

    def objective(self, x, y, W):
        _, out = self.forward(x, W)
        return np.mean((out - y) ** 2) + sum(self.l2 * np.sum(w[:-1] ** 2) for w in W)

    def step(self, x, y):
        N, D = y.shape
        inputs, out = self.forward(x, self.W)
        slopes = [
            1 - a[:, :-1] ** 2 for a in inputs
        ]  # tanh' at the input of each layer but the first

        # Gradient: of the mean loss and of the regulariser, which leaves the bias out.
        gradient = [None] * len(self.W)
        delta = 2 * (out - y) / (N * D)
        for i in reversed(range(len(self.W))):
            gradient[i] = inputs[i].T @ delta
            gradient[i][:-1] += 2 * self.l2 * self.W[i][:-1]
            if i:
                delta = (delta @ self.W[i][:-1].T) * slopes[i]

        # Factors.
        if self.t % self.factor_period == 0:
            self.k += 1
            known = 1 - 1 / max(self.R, 1) if self.R else 1
            eps = min(1 - 1 / self.k, known, self.curvature_decay)
            G = 2 / D * np.eye(D)
            for i in reversed(range(len(self.W))):
                self.A[i] = eps * self.A[i] + (1 - eps) * inputs[i].T @ inputs[i] / N
                self.G[i] = eps * self.G[i] + (1 - eps) * G
                if i:
                    kernel = self.W[i][:-1]
                    G = (kernel @ G @ kernel.T) * (slopes[i].T @ slopes[i] / N)

        # Inverses: all at once, or in turns by updates that estimate no factors.
        estimates = self.t % self.factor_period == 0
        rests = not estimates or self.factor_period == 1
        early = self.t < self.inverse_period and estimates
        at_once = early or self.tau > 2 * self.inverted
        begins = not at_once and rests and self.age >= self.inverse_period
        if at_once or begins:
            self.inverted, self.age, self.turn = self.tau, 0, 0
        if at_once:
            self.invert(range(len(self.W)))
        elif begins or (self.turn and rests):
            self.invert(self.turns[self.turn])
            self.turn = (self.turn + 1) % len(self.turns)
        self.age += 1

        # The average of the gradients, as far as batches disagree.
        beta = min(1 - 1 / max(self.R, 1), self.gradient_decay)
        self.averaged += beta > 0
        self.mean = [beta * m + (1 - beta) * g for m, g in zip(self.mean, gradient, strict=True)]

        # Direction, and the exact model over it and the previous step.
        direction = [-A @ g @ G for (A, G), g in zip(self.inverses, self.mean, strict=True)]
        basis = [direction, self.previous]
        n = int(np.ceil(self.model_fraction * N))
        part = [a[:n] for a in inputs], [a[:n] for a in slopes]
        images = [self.jacobian_product(*part, d) for d in basis]
        C, damped = np.zeros((2, 2)), np.zeros((2, 2))
        for i in range(2):
            for j in range(2):
                C[i, j] = 2 / (n * D) * np.sum(images[i] * images[j])
                for d, e in zip(basis[i], basis[j], strict=True):
                    damped[i, j] += (self.tau + 2 * self.l2) * np.sum(d[:-1] * e[:-1])
                    damped[i, j] += self.tau * np.sum(d[-1] * e[-1])
        M = C + damped
        slope = np.array([dot(self.mean, direction), dot(gradient, self.previous)])
        mu = 0.0
        if self.t > 0:
            mu = np.clip(-np.linalg.solve(M, slope)[1], -1, 1)
        alpha = max(-(slope[0] + mu * M[0, 1]) / M[0, 0], 0)
        c = np.array([alpha, mu])

        # Bounds: at most half of the objective may be promised.
        before = self.objective(x, y, self.W)
        fall = -c @ slope
        room = 0.5 * min(before, 10 * self.usual_objective or before)
        if fall > 0:
            shorter = min(1, 1.5 * fall / (c @ M @ c), room / fall)
            self.bounded += shorter < 1
            c = c * shorter
        # A promise of this batch that is no outlier.
        promise = max(-c @ [dot(gradient, b) for b in basis], 0) / room
        assert promise <= 10 * (self.usual_promise or promise)
        if promise > 0:
            self.usual_promise = (self.usual_promise or promise) ** 0.8 * promise**0.2
        self.shortened += self.trust < 1
        share = min(self.trust, 1 - beta)
        held = [(1 - share) * (c[0] * d + c[1] * p) for d, p in zip(*basis, strict=True)]
        c = c * share
        self.alpha, self.mu = c
        own_slope = np.array([dot(gradient, b) for b in basis])
        curved = c @ M @ c / 2
        predicted = c @ own_slope + curved

        # How much more the last step curved on its own batch than on this one.
        if self.t > 0:
            most = min(10 * max(self.R, 1), 100)
            self.R = 0.9 * (self.R or 1) + 0.1 * np.clip(self.own / C[1, 1], 0.1, most)
        self.own = c @ C @ c

        # Whether the last step was too long for this batch.
        if self.t > 0:
            room = self.overshoot * C[1, 1] - dot(gradient, self.previous)
            self.usual_overshoot = 0.9 * (self.usual_overshoot or abs(room)) + 0.1 * abs(room)
            vote = np.clip(room / self.usual_overshoot, -3, 3)
            self.agreement = 0.8 * self.agreement + 0.2 * np.clip(vote, -1, 1)
            speed = 1 / (1.25 - abs(self.agreement))
            self.trust = np.clip(self.trust * np.exp(0.03 * speed * vote), 0.1, 1)

        # The step, and Levenberg-Marquardt on the same batch.
        assert before <= 2 * self.usual_objective or self.t == 0  # no batch of the tests is astray
        self.previous = [
            self.alpha * d + self.mu * p for d, p in zip(direction, self.previous, strict=True)
        ]
        self.W = [w + d for w, d in zip(self.W, self.previous, strict=True)]
        unusual = curved > 4 * self.usual_curved
        if (self.t + 1) % self.damping_period == 0 or self.rho < 0.25 or self.t < 10 or unusual:
            self.compared += 1
            actual = self.objective(x, y, self.W) - before
            self.rho = 1 - (actual - predicted) / curved
            assert self.rho > 0  # no step of the tests is taken back
            factor = self.damping_decay**self.damping_period
            if self.rho > 0.75:
                self.tau *= factor
            elif self.rho < 0.25:
                self.tau /= factor
        # What was held back comes in, after the comparison: 1 / (n + 1) of it with the n-th step.
        # As far as it leads up, on this batch and those before, a part of it is given up.
        self.n += 1
        share = 1 / (self.n + 1)
        slope = dot(gradient, self.reserve)
        self.usual_reserve_slope = 0.9 * (self.usual_reserve_slope or abs(slope)) + 0.1 * abs(slope)
        if slope:
            vote = np.clip(slope / self.usual_reserve_slope, -1, 1)
            self.uphill = 0.8 * self.uphill + 0.2 * vote
        left = np.exp(-0.1 * max(self.uphill, 0) ** 2)
        self.given_up += left < 1
        pool = [left * r + h for r, h in zip(self.reserve, held, strict=True)]
        self.W = [w + share * p for w, p in zip(self.W, pool, strict=True)]
        self.reserve = [(1 - share) * p for p in pool]
        old = self.usual_curved or curved
        self.usual_curved = 0.9 * old + 0.1 * curved
        self.usual_objective = (self.usual_objective or before) ** 0.5 * before**0.5
        self.tau = max(self.tau, self.floor)
        self.t += 1

    def invert(self, layers):
        damping = self.tau + 2 * self.l2
        for i in layers:
            A, G = self.A[i], self.G[i]
            pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G)))
            self.inverses[i] = (
                np.linalg.inv(A + pi * np.sqrt(damping) * np.eye(len(A))),
                np.linalg.inv(G + np.sqrt(damping) / pi * np.eye(len(G))),
            )

    def jacobian_product(self, inputs, slopes, direction):
        """Change of the outputs along a direction in the weights."""
        da = np.zeros((len(inputs[0]), inputs[0].shape[1] - 1))
        for i, d in enumerate(direction):
            dh = inputs[i] @ d + da @ self.W[i][:-1]
            if i < len(direction) - 1:
                da = dh * slopes[i + 1]
        return dh


def dot(left, right):
    return sum(np.sum(a * b) for a, b in zip(left, right, strict=True))
