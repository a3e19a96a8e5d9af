"""The drafter process: one guesser, running ahead for many sessions."""
