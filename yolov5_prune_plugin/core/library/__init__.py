"""A model as one native library: what is compiled, and how its weights lie in it."""
