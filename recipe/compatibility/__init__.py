"""Which versions of vLLM and verl redraft works with, and what it takes for granted of them.

- `releases`: the one list of versions, each with how it was checked; everything that names versions reads it here.
- `vllm_contracts`, `verl_contracts`: the definitions that redraft patches, overrides or relies on, with the
  fingerprints of those that were read and found to keep what redraft needs.
- `source`: fingerprints of source text, without importing it.
- `imports`: what the recipe imports of vLLM and verl, found in its own source.
- `wheels`, `verify`: the check of every version's wheel (`make verify-compat`).
"""
