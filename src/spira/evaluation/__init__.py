"""Metrics with intervals, shortcut audits, baselines, report and card."""
