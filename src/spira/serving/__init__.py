"""Serving: the Client API, the relay, the Streaming Prediction Service."""
