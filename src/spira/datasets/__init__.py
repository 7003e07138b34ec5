"""Dataset versions: importing, checking, showing and verifying recordings with their labels."""
