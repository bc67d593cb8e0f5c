"""Sparse training: --dns, --gmp, --prune, --keep-zeros, --share-bits, --distill of train.py."""
