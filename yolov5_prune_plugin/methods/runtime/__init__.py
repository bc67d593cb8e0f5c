"""Running a model without its zeros."""
