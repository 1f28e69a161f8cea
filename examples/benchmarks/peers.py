"""Compare with kfac-jax, BackPACK and curvlinops, each in an environment of its own.

    make bench-peers

*Factors*: what the Kronecker factors of all layers take beside a gradient, ours by KFAC, KFLR and
KFRA, and those of BackPACK and curvlinops, on an MLP, an autoencoder and a convolutional net.
*Training*: a deep autoencoder on Fashion-MNIST by KFRA and KFAC with their defaults, and by
kfac-jax with the settings of its own example.

All have the same weights, batches and evaluation. They are processes that take turns, so that other
work on the machine falls on all; each is compared with its own gradient. Each net, and the
training, is a file in the output folder: what is there is not measured again. A peer whose
environment is missing is left out, and the others are measured. Goes to PEERS.md, two CSV tables
and a figure.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
from _arguments import add_names, positive_integer, positive_number, seed
from _peers import nets, ours, page
from _peers.client import Peer, PeerError
from _peers.measuring import SLICES, kept, measure_factors, measure_training
from _peers.serving import EVALUATION_IMAGES
from _report import require_writable
from _tasks.data import fashion_images

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ("factors", "training")
IN_WORDS = {"on_torch": "BackPACK and curvlinops", "on_jax": "kfac-jax"}
SMOKE = {"rounds": 1, "seconds": 0.001, "budget": 0.2, "evaluations": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write it; 0 if all went well."""
    args = parse_arguments(arguments)
    try:
        require_writable(args.out)
        with tempfile.TemporaryDirectory() as folder:
            found = compare(args, pathlib.Path(folder))
    except (OSError, PeerError) as error:
        print(f"peers.py: error: {error}", file=sys.stderr)
        return 1
    target, figure = args.out, args.out / "peers.png"
    if args.publish:
        target, figure = HERE, ROOT / "docs" / "peers.png"
    link = pathlib.Path(os.path.relpath(figure, target)).as_posix()
    print(page.as_markdown(found, link))
    for path in page.write(target, figure, link, found):
        print(f"wrote {path}")
    return 0


def compare(args: argparse.Namespace, folder: pathlib.Path) -> page.Found:
    """Measure what is missing.

    Args:
        args: Of the command line.
        folder: For what the programs have in common.
    """
    every = nets.nets(smoke=args.smoke)
    images = write_problems(every, folder, args.smoke)
    pythons = {"ours": sys.executable, "on_torch": args.torch, "on_jax": args.jax}
    missing = [
        f"{IN_WORDS[module]} (there is no environment; `make bench-peers` makes it)"
        for module, python in pythons.items()
        if not pathlib.Path(python).exists()
    ]
    for reason in missing:
        say(f"left out: {reason}")
    peers = {
        module: Peer(f"_peers.{module}", python, folder, args.smoke, args.patience)
        for module, python in pythons.items()
        if pathlib.Path(python).exists()
    }
    try:
        of_factors = {module: peer for module, peer in peers.items() if module != "on_jax"}
        of_training = {module: peer for module, peer in peers.items() if module != "on_torch"}
        factors, training = {}, None
        for name in args.nets if "factors" in args.parts else ():
            factors[name] = kept(
                args.out / f"{name}.json",
                {
                    "versions": versions(of_factors),
                    "net": every[name],
                    "rounds": args.rounds,
                    "seconds": args.seconds,
                },
                lambda name=name: measure_factors(of_factors, name, args.rounds, args.seconds, say),
            )
        if "training" in args.parts:
            plan = {"seed": args.seed, "budget": args.budget, "evaluations": args.evaluations}
            training = kept(
                args.out / "training.json",
                {
                    "versions": versions(of_training),
                    **plan,
                    "net": every[nets.TRAINED],
                    "images": len(images),
                    "evaluated": min(len(images), EVALUATION_IMAGES),
                    "slices": SLICES,
                },
                lambda: measure_training(
                    of_training,
                    nets.TRAINED,
                    folder,
                    plan,
                    lambda path: evaluate(every[nets.TRAINED], path, images),
                    say,
                ),
            )
    finally:
        for peer in peers.values():
            peer.close()
    return page.Found(factors, training, every, missing)


def versions(peers: dict[str, Peer]) -> dict[str, dict[str, str]]:
    """Of all packages, by peer."""
    return {module: peer.ask("versions") for module, peer in peers.items()}


def write_problems(every: dict[str, nets.Net], folder: pathlib.Path, smoke: bool) -> np.ndarray:
    """Write weights and a batch of each net, and the images to train on.

    Args:
        every: Net by name.
        folder: For the files.
        smoke: Whether the images are random ones.

    Returns:
        The images, rows of pixels.

    Raises:
        OSError: If Fashion-MNIST is neither on disk nor can be downloaded.
    """
    pixels = int(np.prod(every[nets.TRAINED].inputs))
    if smoke:
        generator = np.random.default_rng(0)
        images = generator.uniform(size=(40, pixels)).astype(np.float32)
        labels = generator.integers(10, size=40)
    else:
        (images, labels), _ = fashion_images()
        images = images.reshape(-1, pixels)
    np.save(folder / "images.npy", images)
    for name, net in every.items():
        keras.utils.set_random_seed(0)
        x = images[: net.batch].reshape(-1, *net.inputs)
        y = labels[: net.batch].astype(np.int64) if net.loss == "classes" else x
        nets.write(nets.path_of(folder, name), ours.build(net).get_weights(), x, y)
    return images


def evaluate(net: nets.Net, path: pathlib.Path, images: np.ndarray) -> float:
    """The objective of weights in a file."""
    model = ours.build(net)
    model.set_weights(nets.read_weights(path))
    return ours.objective_of(model)(images[:EVALUATION_IMAGES])


def say(text: str) -> None:
    """Tell the user what is being done."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="peers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name, net in nets.nets().items() if net.methods]
    add_names(parser, "--parts", PARTS, PARTS)
    add_names(parser, "--nets", names, names)
    parser.add_argument(
        "--torch",
        type=pathlib.Path,
        default=ROOT / ".venv-torch" / "bin" / "python",
        metavar="PYTHON",
        help="of the environment of BackPACK and curvlinops (default: of .venv-torch)",
    )
    parser.add_argument(
        "--jax",
        type=pathlib.Path,
        default=ROOT / ".venv-jax" / "bin" / "python",
        metavar="PYTHON",
        help="of that of kfac-jax (default: of .venv-jax)",
    )
    parser.add_argument(
        "--rounds", type=positive_integer, default=5, help="of factors (default: 5)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=0.7,
        help="of a program's turn with one net and method in a round (default: 0.7)",
    )
    parser.add_argument(
        "--budget",
        type=positive_number,
        default=120.0,
        metavar="SECONDS",
        help="of each of three training runs (default: 120)",
    )
    parser.add_argument(
        "--evaluations",
        type=positive_integer,
        default=40,
        help="of the objective in a training run (default: 40)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the batches (default: 0)")
    parser.add_argument(
        "--patience",
        type=positive_number,
        default=120.0,
        metavar="SECONDS",
        help="for one answer of a program; what takes longer is left out (default: 120)",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny nets, once: does it run?")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write PEERS.md and the tables beside this script, and the figure into docs/",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("peers"),
        metavar="DIR",
        help="folder for what was measured (default: peers)",
    )
    args = parser.parse_args(arguments)
    if args.smoke:
        vars(args).update(SMOKE)
    return args


if __name__ == "__main__":
    sys.exit(main())
