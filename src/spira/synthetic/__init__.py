"""The synthetic hospital: voices, physiology, rooms, devices, records, and their truth."""
