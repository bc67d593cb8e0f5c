"""Masks and shared weights while a model trains: the mechanism, schedules and rules."""
