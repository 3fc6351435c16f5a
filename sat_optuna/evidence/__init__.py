"""Is the ticket any good? Retraining beside controls, paired seeds, intervals, figures."""
