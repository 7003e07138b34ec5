"""Serving: from a submission to an answer (applications 6 and 7, stores G and H)."""
