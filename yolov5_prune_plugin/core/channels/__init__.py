"""Channel pruning: dependency graph, groups, importance, allocation, the cut and its repair."""
