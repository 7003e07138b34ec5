"""Promotion policies and rollback: which model version answers."""
