"""The loop: diagnose, mine, train, and prove by paired tests that the model is better and nothing else is worse."""
