"""``python -m yolov5_prune_plugin val.py ...`` is ``yolov5-prune run val.py ...``."""

import sys

from yolov5_prune_plugin.cli import COMMANDS, main

if __name__ == "__main__":
    known = len(sys.argv) < 2 or sys.argv[1] in COMMANDS or sys.argv[1].startswith("-")
    sys.exit(main(sys.argv[1:] if known else ["run", *sys.argv[1:]]))
