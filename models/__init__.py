"""The models, one a file; modules.py is their door."""
