"""One-shot pruning of a trained model: --prune and its methods, budget, sensitivity."""
