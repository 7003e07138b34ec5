"""The history of Serving's tables."""
