"""Channel pruning: --slim and --bn-l1 of train.py."""
