"""The Label Store C: what labels rest on, when it was so, and when we knew."""
