"""The history of the hospitals' tables."""
