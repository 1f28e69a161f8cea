"""The support table in docs/features.md: which test shows a feature, with which optimizers.

Which optimizers a test covers is read off the parameters that pytest collected for it. Written by

    python tests/support.py
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "features.md"
OPTIMIZERS = ("KFRA", "KFLR", "KFAC", "HessianFree")
BEGIN, END = "<!-- begin of the support table: python tests/support.py -->", "<!-- end of it -->"

_FEATURES = "test_training_features.py::test_"
_CONVENTIONS = "optimizers/test_keras_conventions.py::test_"
_GRADIENTS = "optimizers/test_keras_gradients.py::test_"
_CALLBACKS = "callbacks/test_keras_callbacks.py::test_"
_PRECISION = "optimizers/test_precision.py::test_"

# Each test has the optimizer among its parameters.
FEATURES = {
    "`jit_compile` True and False, `run_eagerly`": (
        "optimizers/test_update.py::test_graph_xla_and_eager_agree"
    ),
    '`jit_compile="auto"`': _FEATURES + "keras_default_of_jit_compile_is_one_of_both",
    "`steps_per_execution`": (_FEATURES + "several_steps_in_one_execution_give_the_same_weights"),
    "`train_on_batch`": (
        _FEATURES + "steps_without_a_graph_and_single_batches_give_the_same_weights"
    ),
    "generators, `PyDataset`, `tf.data`": (
        _FEATURES + "generators_and_datasets_give_the_same_weights_as_arrays"
    ),
    "last partial batch": _FEATURES + "a_last_batch_of_another_size_is_trained_like_any",
    "`validation_data`": _FEATURES + "validation_changes_neither_weights_nor_optimizer",
    "`class_weight`, `sample_weight`": (
        _FEATURES + "class_weights_are_the_sample_weights_that_they_stand_for"
    ),
    "`initial_epoch`": _FEATURES + "epochs_in_two_calls_of_fit_are_those_of_one",
    "`add_loss`": (
        _FEATURES + "a_loss_that_a_layer_adds_is_trained_like_one_of_a_loop_of_ones_own"
    ),
    "metrics, `weighted_metrics`": (
        _FEATURES + "metrics_are_those_of_the_batches_and_change_nothing"
    ),
    "frozen and unfrozen layers": (
        _FEATURES + "frozen_layers_stay_bitwise_and_move_again_when_unfrozen"
    ),
    "recurrent layers": (
        "layers/test_recurrent_models.py::test_recurrent_layers_train_alike_in_a_graph_and_eagerly"
    ),
    "`stateful` recurrent layers": (
        "layers/test_recurrent_models.py::test_an_update_moves_the_states_once"
    ),
    "`gradient_accumulation_steps`": (
        "optimizers/test_accumulation.py::test_factors_are_averaged_over_the_batches"
    ),
    "`clipnorm`, `clipvalue`": (
        "optimizers/test_clipping.py::test_what_is_clipped_is_preconditioned"
    ),
    "`global_clipnorm`": (
        "optimizers/test_clipping.py::"
        "test_a_clipped_global_norm_shortens_the_step_by_the_same_factor"
    ),
    "decoupled `weight_decay`": "optimizers/test_clipping.py::test_weight_decay_is_decoupled",
    "`exclude_from_weight_decay`": _GRADIENTS + "what_is_excluded_does_not_decay",
    "`use_ema`": _GRADIENTS + "fit_ends_with_the_moving_average",
    "`ema_overwrite_frequency`": (
        _GRADIENTS + "the_moving_average_overwrites_the_weights_as_often_as_it_is_told"
    ),
    "`loss_scale_factor`": _GRADIENTS + "a_scaled_loss_makes_the_same_steps",
    "constraints": _GRADIENTS + "constraints_hold_after_each_step",
    "learning-rate schedules": (
        _CONVENTIONS + "a_schedule_a_callable_and_an_assignment_of_the_learning_rate_are_the_same"
    ),
    "damping schedules": _CONVENTIONS + "a_schedule_gives_the_damping_of_each_update",
    "`MultiOptimizer`": (
        "optimizers/test_several_optimizers.py::"
        "test_each_optimizer_makes_the_step_that_it_would_make_alone"
    ),
    "`ModelCheckpoint`": (
        _CALLBACKS + "a_checkpointed_model_continues_training_as_if_it_had_not_been_saved"
    ),
    "`EarlyStopping`": _CALLBACKS + "early_stopping_restores_the_best_weights",
    "`LearningRateScheduler`, `ReduceLROnPlateau`": (
        _CALLBACKS + "learning_rates_of_a_scheduler_and_on_a_plateau_scale_the_steps"
    ),
    "`TensorBoard`": _CALLBACKS + "tensorboard_gets_loss_damping_and_step_size",
    "`CSVLogger`": _CALLBACKS + "the_log_in_a_table_has_damping_and_step_size",
    "`TerminateOnNaN`": _CALLBACKS + "training_stops_at_a_batch_of_nan_which_moves_nothing",
    "`SwapEMAWeights`": _CALLBACKS + "validation_sees_the_moving_average_that_is_swapped_in",
    "`CurvatureMonitor`": ("callbacks/test_monitor.py::test_training_is_bitwise_the_same"),
    "`RefreshBatchNormalization`": (
        "callbacks/test_refresh.py::test_validation_and_the_trained_model_use_them"
    ),
    "`mixed_float16`, `mixed_bfloat16`": (
        _PRECISION + "training_in_mixed_precision_lowers_the_loss"
    ),
    "dynamic loss scale, skipped steps": (
        _PRECISION + "an_overflow_skips_the_update_and_halves_the_loss_scale"
    ),
    "outputs in float16": _PRECISION + "the_outputs_may_be_of_half_precision",
    "float64 models": _PRECISION + "a_float64_model_has_float64_curvature_beside_a_float32_layer",
    "`.keras`": "test_saving.py::test_five_and_five_updates_through_a_file_are_ten",
    "`.weights.h5`": "test_files.py::test_one_of_ours_takes_over_the_state_of_another",
    "files of another architecture are refused": (
        "test_files.py::test_weights_of_another_architecture_are_refused_with_both_shapes"
    ),
    "`tf.train.CheckpointManager`": "test_files.py::test_a_checkpoint_manager_rotates_and_restores",
    "files of version 0.1.0": (
        "test_files.py::test_a_file_of_an_older_version_continues_with_its_curvature"
    ),
    "`get_config`, `from_config`": (
        _CONVENTIONS + "a_configuration_makes_the_same_optimizer_again"
    ),
    "pickle, `copy.deepcopy`": _CONVENTIONS
    + "a_copy_of_a_compiled_model_continues_training_as_it_does",
    "`clone_model`": _CONVENTIONS + "a_cloned_model_trains_once_it_is_enabled",
    "`model.export`, `tf.saved_model.save`": (
        "test_serving.py::test_a_saved_model_holds_what_that_of_a_stock_model_holds"
    ),
    "TensorFlow Lite": "test_serving.py::test_it_runs_in_tensorflow_lite",
    "`export_training`": (
        "test_exporting.py::test_its_steps_are_those_of_fit_and_come_again_after_restoring"
    ),
    "batches of NaN, Inf, or nothing": "test_faults.py::test_the_first_batch_is_useless",
    "dead units": "test_faults.py::test_dead_units_train_what_is_left",
}

# There can be no such test.
IMPOSSIBLE = {"files of version 0.1.0": ("HessianFree",)}  # which came later

# One test runs all optimizers.
ALL_AT_ONCE = {
    "`kill -9` with our `BackupAndRestore`": (
        "test_faults.py::test_killed_twenty_times_training_ends_where_it_would_have"
    ),
    "serving without tf_kfgn": (
        "test_serving.py::test_predictions_are_the_same_where_there_is_no_tf_kfgn"
    ),
    "training where only TensorFlow is": (
        "test_exporting.py::test_where_there_is_only_tensorflow_its_steps_are_those_of_fit"
    ),
}


def table(collected: Iterable[str]) -> str:
    """The table in Markdown.

    Args:
        collected: Ids of the collected tests.

    Raises:
        ValueError: If a feature's test does not exist, or covers no optimizer.
    """
    shown: dict[str, set[str]] = {}
    for test in collected:
        name, _, parameters = test.replace("\\", "/").partition("[")
        short = name.removeprefix("tests/")
        named = {one for one in OPTIMIZERS if one.lower() in parameters.lower()}
        shown.setdefault(short, set()).update(named)
    lines = [
        f"| feature | {' | '.join(OPTIMIZERS)} | test |",
        "|---|" + "---|" * len(OPTIMIZERS) + "---|",
    ]
    for feature, test in (FEATURES | ALL_AT_ONCE).items():
        covered = set(OPTIMIZERS) if feature in ALL_AT_ONCE else shown.get(test, set())
        if test not in shown or not covered:
            raise ValueError(f"No test of an optimizer shows {feature}: {test}")
        none = dict.fromkeys(IMPOSSIBLE.get(feature, ()), "–")
        cells = ["✓" if one in covered else none.get(one, "") for one in OPTIMIZERS]
        # No link: the tests are not on the site.
        lines.append(f"| {feature} | {' | '.join(cells)} | `{test}` |")
    return "\n".join(lines)


def table_on_page() -> str:
    """The table as it stands in docs/features.md."""
    return PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()


class _Collector:
    """A plugin of pytest that only looks at what was collected."""

    ids: list[str]

    def pytest_collection_finish(self, session) -> None:
        self.ids = [item.nodeid for item in session.items]


def main() -> None:
    """Write the table into docs/features.md."""
    import pytest

    collector = _Collector()
    if pytest.main(["--collect-only", "-q", "--no-header", str(ROOT / "tests")], [collector]):
        sys.exit("The tests cannot be collected.")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(collector.ids)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
