"""The history of the Label Store's tables."""
