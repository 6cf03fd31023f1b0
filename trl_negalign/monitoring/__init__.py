"""What a training looks like while it runs: signs of trouble in its logs, and diagnostics of the policy."""
