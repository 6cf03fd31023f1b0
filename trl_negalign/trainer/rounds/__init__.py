"""What happens between two generations: data, rewards, replay, checkpoints, and what all processes do in step."""
