"""`redraft demo`: GRPO on a small policy, with drafting on, from one command."""
