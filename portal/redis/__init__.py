"""Speak of Redis in one place: the names of keys and channels, and the wake-ups that travel by them."""
