"""The signal path: decoding, quality, noise, windows, features. numpy and scipy, no torch."""
