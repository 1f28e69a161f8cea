"""HessianFree: truncated conjugate gradients on the exact Gauss-Newton matrix of the batch."""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn._keras.optimizers import HookedOptimizer
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.factors import KFACEstimator
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.optimizers import hessian_free_update
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.damping import with_initial_damping
from tf_kfgn.optimizers.gauss_newton import MAX_FACTOR_SIZE, GaussNewton
from tf_kfgn.optimizers.hessian_free_settings import Preconditioning, SearchSettings
from tf_kfgn.optimizers.hessian_free_variables import SearchVariables
from tf_kfgn.recording.tape import CurvatureTape

# Arguments of the other optimizers that have no meaning here.
FOREIGN = {"step_size", "momentum", "gradient_decay", "overshoot", "model_fraction"}
# Those that say how replicas work together; it runs on one device.
OF_REPLICAS = {"sharding", "communication_dtype"}


@keras.saving.register_keras_serializable(package="tf_kfgn")
class HessianFree(GaussNewton):
    """Optimizer that solves with the exact Gauss-Newton matrix, by truncated conjugate gradients.

    Each update minimises the quadratic model `g^T x + 1/2 x^T (G + (τ + η) I) x` with the
    Gauss-Newton matrix G of its batch (η from L2 regularisers). No matrix is formed: each iteration
    of CG costs one product on the recorded pass, about as much as a gradient. Works on any graph
    of layers. An update costs many times one of `KFRA`, `KFLR` or `KFAC`, and goes further; it is
    for large batches, or the whole data set in one.

    ```python
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.HessianFree(preconditioner="kfac"), loss="mse")
    model.fit(x, y, batch_size=len(x), epochs=100)
    ```

    Every update needs a recorded pass. Gradient, products and comparisons of an update are of one
    batch with one set of dropout masks: the products act on the recorded pass, and the comparisons
    repeat its random numbers. In memory it keeps the last step, the last solution, and,
    during an update, about `8.8 log10(max_cg_iterations)` iterates to go back to, each as large as
    the weights. It does not run on several replicas. Under gradient accumulation G is that of the
    last batch of an update.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments: a factor for the whole step, `1.5` at most. Defaults to `1.0`.
        damping: Initial τ, in units of the objective's second derivative, or a
            `keras.optimizers.schedules.LearningRateSchedule` that gives τ for each update and
            turns its adaptation off. Defaults to `None`: 0.04 times the mean diagonal of the output
            curvature on the first batch, so that scaling the loss changes nothing.
        min_damping: Floor of τ, in the same units. Defaults to `0.0`, after Martens (2010); `None`
            is a tenth of the initial τ, as in the other optimizers, which keeps the model of a
            small batch from being trusted too far.
        damping_decay: Factor per update by which τ shrinks after ρ > 3/4, and grows after
            ρ < 1/4. Defaults to `2/3`, after Martens (2010). τ doubles after ρ < 0.
        damping_period: Updates between two comparisons of actual and predicted change. A compared
            update goes back along the iterates, with a forward pass for each, is taken back if it
            raised the objective of its own batch, and adapts τ; any other promises at most half of
            the objective to first order. As in the other optimizers, unsure updates are compared
            too, and the step before is taken back where the next batch finds it bad. Defaults to
            `1`: a forward pass costs little beside CG. `None` keeps τ fixed and compares nothing.
        max_cg_iterations: Iterations of CG in one update, at most. Defaults to `100`.
        cg_tolerance: ε: CG stops after iteration i where the model fell by less than `k ε` of its
            value over the last k, with `k = max(10, i / 10)`. Defaults to `5e-4`, after Martens.
        warm_start: Factor of the last solution, where CG starts. Defaults to `0.95`, after Martens
            & Sutskever; `0` starts from zeros, which saves a copy of the weights. A start that the
            model finds no better than zeros is dropped.
        backtracking: Whether compared updates go back to an earlier iterate as long as the
            objective falls with that. Defaults to `True`.
        curvature_fraction: Part of the batch whose curvature is taken, its first examples: `0.25`
            makes CG about four times as fast. `fit` runs one more forward pass on that part; in a
            loop of your own use `recorded_pass(..., curvature_tape=part)`, with a tape from
            `tape.of_part()`. The gradient, the comparisons and the preconditioner are those of the
            whole batch; the part has dropout masks of its own, the same for all products of an
            update. Defaults to `1.0`.
        preconditioner: `"kfra"`, `"kflr"` or `"kfac"`, whose damped blocks precondition CG, or the
            name of a registered estimator of your own. Defaults to `None`: plain CG.
        curvature_decay: Of the preconditioner: weight of the old averages when new factors come,
            at most `1 - 1/k` for the k-th. Defaults to `0.95`.
        factor_period: Of the preconditioner: updates between two estimates of the factors. Defaults
            to `1`: they cost no more than an iteration or two of CG.
        inverse_period: Of the preconditioner: updates between two inversions. Defaults to `5`.
            During the first `inverse_period` updates every new estimate is inverted at once.
        approximation: Of the preconditioner: how positions that share weights enter,
            `"correlated"`, `"expand"` or `"reduce"`, or a dictionary from names of layers to
            these. Defaults to `"correlated"`.
        max_factor_size: Of the preconditioner: rows of a factor above which only its diagonal is
            kept; None for no limit. Defaults to `4096`.
        weight_decay: As in `GaussNewton`, as are the next ones.
        clipnorm: Float. If set, the gradient of each weight is clipped to this norm before CG
            solves with it.
        clipvalue: Float. As `clipnorm`, for single elements.
        global_clipnorm: Float. As `clipnorm`, for the gradient of all weights together.
        use_ema: Whether to keep an exponential moving average of the weights.
        ema_momentum: Decay of that average. Defaults to `0.99`.
        ema_overwrite_frequency: Updates after which the average overwrites the weights, or None.
        loss_scale_factor: Factor by which `scale_loss` multiplies the loss.
        gradient_accumulation_steps: Batches whose gradients are averaged for one update.
        name: Name of the optimizer.
        num_samples: Of `preconditioner="kfac"`: cotangents drawn for each example. Defaults to
            `None`: that estimator's own default, as do the next two.
        num_columns: Of `"kflr"`: random combinations of the outputs.
        memory_limit: Of `"kfra"` and `"kflr"`: MiB.
        seed: An integer that the preconditioner draws from, or None for one drawn from Python's
            generator, which `keras.utils.set_random_seed` seeds.
        curvature_dtype: Of the preconditioner: the type in which its factors and inverses are
            kept, `"bfloat16"` or None.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is out of its range, or the preconditioner has none of that name.

    Reference:
        Martens, "Deep learning via Hessian-free optimization", ICML 2010; Martens & Sutskever,
        "Training Deep and Recurrent Networks with Hessian-Free Optimization", 2012.
    """

    estimator_class = KFACEstimator
    _memory: SearchVariables

    def __init__(
        self,
        learning_rate: Any = 1.0,
        damping: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
        min_damping: float | None = 0.0,
        damping_decay: float = 2 / 3,
        damping_period: int | None = 1,
        max_cg_iterations: int = 100,
        cg_tolerance: float = 5e-4,
        warm_start: float = 0.95,
        backtracking: bool = True,
        curvature_fraction: float = 1.0,
        preconditioner: str | None = None,
        curvature_decay: float = 0.95,
        factor_period: int = 1,
        inverse_period: int = 5,
        approximation: Approximation = DEFAULT,
        max_factor_size: int | None = MAX_FACTOR_SIZE,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        num_samples: int | None = None,
        num_columns: int | None = None,
        memory_limit: float | None = None,
        seed: int | None = None,
        curvature_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments, which the class describes."""
        foreign = sorted(FOREIGN & set(kwargs))
        if foreign:
            raise ValueError(
                f"HessianFree has no {foreign}: its step is that of CG, with the gradient of the "
                "batch. `learning_rate` scales it, `warm_start` says where CG starts."
            )
        if OF_REPLICAS & set(kwargs):
            raise ValueError(
                f"HessianFree has no {sorted(OF_REPLICAS & set(kwargs))}: it runs on one device."
            )
        search = SearchSettings(
            max_cg_iterations=max_cg_iterations,
            cg_tolerance=cg_tolerance,
            warm_start=warm_start,
            backtracking=backtracking,
            curvature_fraction=curvature_fraction,
        )
        preconditioning = Preconditioning(
            preconditioner=preconditioner,
            approximation=approximation,
            max_factor_size=max_factor_size,
            num_samples=num_samples,
            num_columns=num_columns,
            memory_limit=memory_limit,
            seed=random.randint(0, 2**31 - 1) if seed is None else seed,
        )
        estimator = preconditioning.estimator()
        super().__init__(
            learning_rate=learning_rate,
            damping=damping,
            min_damping=min_damping,
            damping_decay=damping_decay,
            damping_period=damping_period,
            gradient_decay=0.0,  # CG solves with the gradient of the batch
            overshoot=None,
            curvature_decay=curvature_decay,
            factor_period=factor_period,
            inverse_period=inverse_period,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            curvature_dtype=curvature_dtype,
            **kwargs,
        )
        self.estimator = estimator
        self.search = search
        self.preconditioning = preconditioning

    @property
    def preconditioner(self) -> str | None:
        """Name of the estimator whose blocks precondition CG."""
        return self.preconditioning.preconditioner

    @property
    def curvature_fraction(self) -> float:
        """Part of the batch whose curvature is taken."""
        return self.search.curvature_fraction

    @override
    def fraction_for_curvature(self, batch_size: int | None, rows: int = 1) -> float:
        """`curvature_fraction`, however large the batch is."""
        return self.curvature_fraction

    @property
    def cg_iterations(self) -> Any:
        """Iterations of CG in the last update, a scalar variable."""
        return self.memory.search.cg_iterations

    @property
    def chosen_iteration(self) -> Any:
        """Number of the iterate that the last update proposed as the step, a scalar variable."""
        return self.memory.search.chosen_iteration

    @property
    def total_cg_iterations(self) -> Any:
        """Iterations of CG in all updates, a scalar variable."""
        return self.memory.search.total_cg_iterations

    @property
    @override
    def memory(self) -> SearchVariables:
        """The variables that hold the state.

        Raises:
            ValueError: If the optimizer has not been built.
        """
        self._require_built("memory")
        return self._memory

    @override
    def new_memory(self, layout: Layout) -> SearchVariables:
        """Create the variables that hold the state; plain CG has no blocks."""
        if self.preconditioner is None:
            layout = Layout(layout.variables, [], layout.l2)
        return SearchVariables(self, layout, self.settings, warm_start=self.search.warm_start > 0)

    @override
    def get_config(self) -> dict[str, Any]:
        """The constructor arguments."""
        settings = self.settings.config()
        for fixed in (FOREIGN | OF_REPLICAS) & settings.keys():
            del settings[fixed]
        search = {name: getattr(self.search, name) for name in self.search.__dataclass_fields__}
        return {
            **HookedOptimizer.get_config(self),
            **settings,
            **search,
            **self.preconditioning.config(),
        }

    # One update

    @override
    def refresh_curvature(self, tape: CurvatureTape) -> None:
        """Choose the first damping, and on their periods renew the blocks that precondition.

        Args:
            tape: The recorded pass.
        """
        if self.preconditioner is not None:
            super().refresh_curvature(tape)
            return
        iteration = tf.cast(self.iterations, tf.int64)
        memory = self.memory.read()
        damped = with_initial_damping(self.settings, memory, tape, iteration)
        self.memory.write(damped, memory)

    @override
    def move(self, batch: Batch) -> None:
        """Make the step that `hessian_free_update.move` describes.

        Raises:
            ValueError: If there are several replicas.
        """
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            raise ValueError(
                "HessianFree does not run on several replicas: its products with the Gauss-Newton "
                "matrix are those of one. Train on one device, or take KFRA, KFLR or KFAC."
            )
        old = self.memory.read()
        memory, search = hessian_free_update.move(
            self.settings, self.search, self.layout, old, self.memory.read_search(), batch
        )
        self.memory.write(memory, old)
        self.memory.write_search(search)

    @override
    def require_curvature(self) -> None:
        """Refuse a step without a tape.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "HessianFree solves with the curvature of each batch, and apply_gradients() was called "
            "without a CurvatureTape. For fit(), call tf_kfgn.enable_curvature(model) before "
            "compile(), or build the model from tf_kfgn.Model or tf_kfgn.Sequential. In a loop of "
            "your own, run the model in `with tf_kfgn.CurvatureTape() as tape:`, call "
            "tape.watch_loss(...) and pass `tape=tape`."
        )
