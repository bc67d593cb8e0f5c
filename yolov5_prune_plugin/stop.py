"""How our errors end a script: one line on stderr and an exit code, through upstream's own ``except Exception``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from yolov5_prune_plugin.errors import NoResultError, PruneError, UpstreamError


@contextmanager
def clear_exit() -> Iterator[None]:
    """Turn a PruneError or UpstreamError into one line and exit code 2, a NoResultError into one and exit code 1."""
    try:
        yield
    except (PruneError, UpstreamError, NoResultError) as error:
        sys.stdout.flush()
        print(f"yolov5-prune: error: {error}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, NoResultError) else 2) from None
