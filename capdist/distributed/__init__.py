"""The ranks of a run: how they meet, what they tell each other, who is missing."""
