"""x"""
from tf_kfgn._backend import require_tensorflow
require_tensorflow()
from tf_kfgn.tape import CurvatureTape
from tf_kfgn.optimizers import KFRA, KFLR, KFAC
from tf_kfgn.training import Model, Sequential, enable_curvature
