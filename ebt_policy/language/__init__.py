"""Sentences that name a task: from words to the vector that a policy is conditioned on."""
