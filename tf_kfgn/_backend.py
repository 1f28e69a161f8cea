"""The one place that checks what Keras runs on."""

import keras


def require_tensorflow() -> None:
    """Raise an error unless Keras runs on TensorFlow.

    Raises:
        ImportError: If Keras was configured with another backend.
    """
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ImportError(
            "tf_kfgn needs Keras with the TensorFlow backend, but Keras was started with "
            f"backend={backend!r}. Set the environment variable KERAS_BACKEND=tensorflow (or "
            '"backend" in keras.json) before the first import of keras.'
        )
