"""Optimal Brain Surgeon: Hessians of layers, masks and least squares from them, tuning."""
