"""What a model's outputs say without labels: distances, their gradients, replays, distillation."""
