"""Model-agnostic parts: tensors and nn.Modules in, masks, plans and numbers out. Only torch is imported."""
