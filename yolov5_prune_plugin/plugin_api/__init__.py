"""What plug-ins meet: the events, the manager that loads them, and what they see of a run."""
