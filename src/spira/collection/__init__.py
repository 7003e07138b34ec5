"""Data Collection: studies, their balance, and what wards and hospitals send."""
