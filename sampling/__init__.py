"""A finished run as an object, and what it can make: samples, completions, scores, comparisons, exports."""
