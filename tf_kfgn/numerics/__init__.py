"""Precision, random numbers, argument checks and files: nothing here knows a layer."""
