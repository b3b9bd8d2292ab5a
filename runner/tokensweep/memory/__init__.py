"""What a run takes of a device, before it starts: memory by phase, time, and what to change if too much."""
