"""Choosing how much to prune: many evaluations side by side, here or on a Ray cluster, and what is made of them."""
