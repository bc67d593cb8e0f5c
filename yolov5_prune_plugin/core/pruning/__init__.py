"""Which weights go: targets, importance, distribution, masks, and one-shot pruning made of them."""
