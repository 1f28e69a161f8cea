"""Train one network on several devices, processes or machines, and compare it with one device.

    python examples/distributed.py --replicas 2
    python examples/distributed.py --workers 2

The digits of scikit-learn, a dense network and KFRA. With --replicas the batches are shared by the
GPUs of this machine under `MirroredStrategy`, or by as many logical devices on its CPU where it has
fewer GPUs. With --workers they are shared by processes under `MultiWorkerMirroredStrategy`, here
all on this machine. Both then train once more on one device, and print by how much the weights
differ: an update is the same however many share it.

On a cluster, start the script without arguments on every machine, with TF_CONFIG set there:

    TF_CONFIG='{"cluster": {"worker": ["host0:12345", "host1:12345"]},
                "task": {"type": "worker", "index": 0}}' python examples/distributed.py

Each worker writes a checkpoint after every epoch below --out. When one dies, the others stop; start
all of them again, and they go on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from _arguments import positive_integer

BATCH_SIZE = 192  # shared by 2, 3, 4, 6, ... replicas


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and say how; 0 if all went well."""
    args = parse_arguments(arguments)
    if args.workers:
        return start_workers(args)
    if args.replicas:
        shared = train(on_replicas(args.replicas), args)
    elif "TF_CONFIG" in os.environ:
        return work(args)
    else:
        print(
            "distributed.py: error: pass --replicas or --workers, or set TF_CONFIG as --help says",
            file=sys.stderr,
        )
        return 2
    compare(shared, args)
    return 0


def on_replicas(count: int) -> Any:
    """A strategy of some devices of this machine."""
    import tensorflow as tf

    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) >= count else "CPU"
    if kind == "CPU":  # before TensorFlow starts
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(count)])


def make_model() -> Any:
    """A compiled network; in the scope of a strategy it is mirrored."""
    import keras

    import tf_kfgn

    keras.config.set_dtype_policy("float64")  # so that what differs is not rounding
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(64),
        # Without `synchronized` each replica would normalise its own examples.
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.Activation("tanh"),
        keras.layers.Dense(10),
    ]
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((64,)), *layers]))
    # Step size and momentum of all examples of a batch; else each replica takes its own first ones.
    optimizer = tf_kfgn.KFRA(model_fraction=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    return model


def make_dataset(examples: int) -> Any:
    """Batches of one epoch, always in the same order."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pairs = tf.data.Dataset.from_tensor_slices((images[:examples] / 16.0, labels[:examples]))
    # Without the last partial batch every replica has as many examples of each.
    return pairs.batch(BATCH_SIZE, drop_remainder=True)


def train(strategy: Any, args: argparse.Namespace) -> list[np.ndarray]:
    """Train by `fit`, on whatever devices a strategy has; the weights."""
    with strategy.scope():
        model = make_model()
    print(f"on {strategy.num_replicas_in_sync} replicas, by fit", flush=True)
    model.fit(make_dataset(args.examples), epochs=args.epochs, shuffle=False, verbose=2)
    return model.get_weights()


def compare(shared: list[np.ndarray], args: argparse.Namespace) -> None:
    """Train on one device, and print by how much the weights differ."""
    model = make_model()
    model.fit(make_dataset(args.examples), epochs=args.epochs, shuffle=False, verbose=0)
    pairs = list(zip(shared, model.get_weights(), strict=True))
    most = max(float(np.max(np.abs(one - other))) for one, other in pairs)
    size = max(float(np.max(np.abs(other))) for _, other in pairs)
    print(f"largest difference from one device: {most / size:.1e} of the largest weight")


def work(args: argparse.Namespace) -> int:
    """What one worker of several does: TF_CONFIG says which it is."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
    import tf_kfgn

    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    with strategy.scope():
        model = make_model()
        # `fit` of Keras fails under this strategy with any optimizer.
        update = tf_kfgn.distribute.train_function(model)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    folder = args.out / f"worker-{index}"  # a worker alone writes to its own
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
    manager.restore_or_initialize()
    dataset = make_dataset(args.examples)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = strategy.experimental_distribute_dataset(dataset.with_options(options))
    done = int(model.optimizer.iterations.numpy()) // int(dataset.cardinality())
    if done > args.epochs:
        print(f"distributed.py: error: {folder} is of {done} epochs; pass another --out")
        return 1
    for epoch in range(done, args.epochs):
        model.reset_metrics()
        for batch in batches:
            logs = update(batch)
        manager.save()
        if index == 0:
            print(f"epoch {epoch + 1}/{args.epochs}: loss {float(logs['loss']):.4f}", flush=True)
    if index == 0:
        np.savez(args.out / "weights.npz", *model.get_weights())
    return 0


def start_workers(args: argparse.Namespace) -> int:
    """Start as many processes as there are to be workers, and compare what they end with."""
    args.out.mkdir(parents=True, exist_ok=True)
    workers = [f"localhost:{port}" for port in free_ports(args.workers)]
    print(f"on {args.workers} worker processes, by tf_kfgn.distribute.train_function", flush=True)
    command = [sys.executable, __file__, "--out", str(args.out), "--epochs", str(args.epochs)]
    command += ["--examples", str(args.examples)]
    processes = []
    for index in range(args.workers):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": ""}
        processes.append(subprocess.Popen(command, env=environment))
    if any([process.wait() for process in processes]):
        print("distributed.py: error: a worker failed; start again to go on", file=sys.stderr)
        return 1
    with np.load(args.out / "weights.npz") as saved:
        compare([saved[name] for name in saved.files], args)
    return 0


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens at."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="distributed.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--replicas", type=positive_integer, metavar="COUNT", help="devices of this machine"
    )
    how.add_argument("--workers", type=positive_integer, metavar="COUNT", help="processes of it")
    parser.add_argument("--epochs", type=positive_integer, default=5, help="default: 5")
    parser.add_argument(
        "--examples",
        type=positive_integer,
        default=1_728,
        help="of the 1,797 digits (default: 1728)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("demo/distributed"),
        metavar="DIR",
        help="folder for checkpoints of workers (default: demo/distributed)",
    )
    args = parser.parse_args(arguments)
    if args.examples < BATCH_SIZE:
        parser.error(f"argument --examples: must be at least a batch of {BATCH_SIZE}")
    return args


if __name__ == "__main__":
    sys.exit(main())
