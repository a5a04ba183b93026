"""redraft: fast, exact rollouts for LLM reinforcement learning."""
