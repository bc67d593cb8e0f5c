"""The built-in plug-ins; strangers come in by the same door, ``yolov5_prune_plugin.plugin_api.manager``."""

# Modules, in the order in which they are registered and in which --help lists their flags.
BUILT_IN = (
    "oneshot.magnitude",
    "oneshot.random",
    "oneshot.obs",
    "oneshot.oneshot",
    "training.dns",
    "training.gmp",
    "training.retrain",
    "training.shared_weights",
    "training.sparse_training",
    "training.distill",  # before slim.slim: what is registered first begins last, and hears tryfirst events first
    "slim.slim",
    "slim.bn_l1",
    "oneshot.calibration",
    "runtime.sparse_runtime",
)
