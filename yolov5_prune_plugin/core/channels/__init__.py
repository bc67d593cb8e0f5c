"""Channel pruning: dependency graph, channel groups, importance, allocation, cut, widths, repair, permutation."""
