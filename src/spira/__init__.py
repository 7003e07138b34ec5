"""SPIRA: indications of respiratory insufficiency in a few seconds of speech."""

__version__ = "0.1.0"
