"""The words and rules of SPIRA: pure, no I/O, at most numpy and pydantic."""
