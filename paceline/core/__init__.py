"""The nouns, the seams and the errors that every other room shares. Imports nothing of the project."""
