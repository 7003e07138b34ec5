"""Dagster's daemon, with sensors that are asked every second.

Dagster asks them every five, whatever their own interval says, by a constant that no setting
reaches: half of the ten seconds in which a request is to start. Should another version have no
such constant, requests start a few seconds later, and nothing else changes.
"""

import dagster._daemon.sensor as sensors
from dagster._daemon.cli import main

sensors.MIN_INTERVAL_LOOP_TIME = 1

if __name__ == "__main__":
    main()
