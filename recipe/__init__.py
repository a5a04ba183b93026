"""The recipe: redraft inside vLLM and verl. The only package that imports torch, vllm, verl or ray."""
