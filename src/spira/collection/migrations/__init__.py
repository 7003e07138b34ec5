"""The history of Collection's tables."""
