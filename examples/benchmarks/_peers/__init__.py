"""What `peers.py` compares: programs, each in an environment of its own, and what they compute.

Only `nets` and `serving` are shared by all environments; they need nothing but NumPy.
"""
