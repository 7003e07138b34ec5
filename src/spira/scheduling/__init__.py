"""Scheduler Service 9: which stage runs when and where, and what becomes of a request."""
