"""Two commands of ours in a row, as one job of a curve: a model is made, then measured. Words: one --then another."""

from __future__ import annotations

import subprocess
import sys

THEN = "--then"


def main(words: list[str]) -> int:
    """Run ``yolov5-prune`` with the words before THEN, and if that succeeds with those behind it.

    Returns:
        Exit code of the last that ran.
    """
    at = words.index(THEN)
    for part in (words[:at], words[at + 1 :]):
        code = subprocess.call([sys.executable, "-m", "yolov5_prune_plugin", *part])
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
