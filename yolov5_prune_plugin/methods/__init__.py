"""The built-in plug-ins; strangers come in by the same door, ``yolov5_prune_plugin.plugin_api.manager``."""

# Modules, in the order in which they are registered; those of one-shot methods come before what lists methods.
BUILT_IN = (
    "oneshot.magnitude",
    "oneshot.random",
    "oneshot.obs",
    "oneshot.oneshot",
    "training.sparse_training",
    "slim.slim",
    "slim.bn_l1",
    "oneshot.calibration",
)
