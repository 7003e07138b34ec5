"""Data Collection: the Data Collection API, studies, and the hospitals that labels come from."""
