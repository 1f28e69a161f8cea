"""The worst block of a convolutional net with batch normalisation, for batches of three sizes.

    python examples/benchmarks/weak_block.py

Trains the net of batch_size.py with KFAC for three epochs and prints what `block_diagnostics` says
of the block with the largest share of the curvature.
"""

from __future__ import annotations

import keras
import numpy as np
from batch_size import network
from sklearn.datasets import load_digits

import tf_kfgn
from tf_kfgn.analysis import block_diagnostics

BATCHES = (50, 100, 500)
EPOCHS = 3


def main() -> None:
    """Print a row for each size."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1250], order[1250:]
    heads = "".join(f"{head:>9}" for head in ("slope", "fresh", "ratio"))
    print(f"batch  {'worst block':<12}{heads}{'step size':>11}{'share':>7}")
    for size in BATCHES:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = tf_kfgn.enable_curvature(network("batch normalisation"))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_kfgn.KFAC(seed=0), loss, jit_compile=False)
        model.fit(images[train], labels[train], size, epochs=EPOCHS, verbose=0)
        batch, fresh = ((images[part], labels[part]) for part in (train[:size], test[:size]))
        found = block_diagnostics(model, batch, fresh)
        name = max(found.blocks, key=lambda block: found.blocks[block].share)
        row = found.blocks[name]
        print(
            f"{size:5d}  {name:<12}{row.slope:9.3f}{row.fresh_slope:9.3f}{row.ratio:9.2f}"
            f"{row.step_size:11.4f}{row.share:7.2f}"
        )


if __name__ == "__main__":
    main()
