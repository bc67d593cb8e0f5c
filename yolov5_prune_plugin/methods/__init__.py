"""The built-in plug-ins, one a file; strangers come in by the same door (plugins.py)."""
