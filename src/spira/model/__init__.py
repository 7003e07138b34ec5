"""The networks (torch), their export, and `score()` (no torch)."""
