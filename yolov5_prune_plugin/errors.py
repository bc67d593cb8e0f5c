"""The two things that can be wrong: what the user gave us, and the YOLOv5 we were pointed at."""


class PruneError(ValueError):
    """The user's input is wrong: a flag, a file or a combination of them."""


class NoResultError(RuntimeError):
    """The input is right, and still what was asked for can't be had: a measurement failed, no model keeps a budget."""


class UpstreamError(RuntimeError):
    """The YOLOv5 checkout or package is not what we know how to work with."""
