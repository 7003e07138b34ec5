"""What Collection and Serving share on a device: an outbox, and the way from it to a server."""
