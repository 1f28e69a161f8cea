"""KFRA."""
import keras
from tf_kfgn.factors import KFRAEstimator, KFLREstimator, KFACEstimator
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFRA(GaussNewton):
    def make_estimator(self):
        return KFRAEstimator(self.approximation)
@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFLR(GaussNewton):
    def make_estimator(self):
        return KFLREstimator(self.approximation)
@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFAC(GaussNewton):
    def make_estimator(self):
        return KFACEstimator(self.approximation)
