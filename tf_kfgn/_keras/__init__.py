"""Every private name of Keras and TensorFlow that tf_kfgn uses, a function or class each.

Nothing else in the package imports `keras.src`, uses `tf.__internal__` or touches an underscore
attribute of an object that is not its own; `make lint` checks that. Each entry has a test in
`tests/keras_insides/` that fails by name when a release of Keras changes it; `make test-newest`
runs them with the newest one.
"""
