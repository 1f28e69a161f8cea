from tf_kfgn.optimizers.kfra import *
