"""The tape, what is active, replays, and products with the recorded Jacobian."""
