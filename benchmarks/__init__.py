"""What SPIRA claims about speed, as code: ratios of two ways, side by side in one run."""
