"""Which slices there are, whose, in which split; their pixels; simulated people; and scans cut into slices."""
