"""What all group methods share: the trainer on top of TRL's, the only place that knows TRL from the inside."""
