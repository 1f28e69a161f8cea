"""How near approximations are to the exact curvature, on a net that is small enough for that."""

from __future__ import annotations

import keras
import numpy as np
from _autoencoders import build_autoencoder
from _report import number

import tf_kfgn

PIXELS, WIDTHS, IMAGES = 64, (8, 3), 50
UPDATES = 60
METHODS = ("kfac", "kflr", "kfra", "blocks")
NET = "-".join(map(str, (PIXELS, *WIDTHS)))
WHOLE = "all layers"


def curvature_errors() -> str:
    """A table in Markdown."""
    from sklearn import datasets

    images = (datasets.load_digits().data / 16).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = build_autoencoder(PIXELS, WIDTHS, "tanh", 0.0)
    tf_kfgn.enable_curvature(model)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(tf_kfgn.KFAC(seed=0), loss, loss_weights=[float(PIXELS)], jit_compile=False)
    lines = [
        "| weights | method | Frobenius error | cosine at each damping |",
        "|---|---|---:|---:|",
    ]
    for when in ("new", f"after {UPDATES} updates"):
        x = images[:IMAGES]
        errors = tf_kfgn.analysis.curvature_error(model, x, model.loss, METHODS, y=x)
        for method in METHODS:
            row = errors[method][WHOLE]
            cosines = ", ".join(
                f"{cosine:.3f} (τ={damping:g})" for damping, cosine in row["cosine"].items()
            )
            lines.append(f"| {when} | {method} | {number(row['frobenius_error'])} | {cosines} |")
        if when == "new":
            batches = len(images) // IMAGES
            kept = images[: batches * IMAGES]
            model.fit(
                kept,
                kept,
                batch_size=IMAGES,
                epochs=-(-UPDATES // batches),
                shuffle=False,
                verbose=0,
            )
    return "\n".join(lines)
