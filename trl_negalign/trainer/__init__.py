"""Trainers: the shared group trainer, the only place that knows TRL from the inside, and one thin pair a method."""
