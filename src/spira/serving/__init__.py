"""Serving: from a phone in a ward to an answer, with nothing ever lost."""
