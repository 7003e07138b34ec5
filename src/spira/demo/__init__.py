"""Demonstrations: what SPIRA is for, in one command, on voices that were made."""
