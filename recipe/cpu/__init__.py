"""What only a machine without a GPU needs to run the verl recipe; nothing else imports it.

`python -m redraft.recipe.cpu.main_ppo <verl arguments>` is the switch: it sets the environment
(`environment.activate`), takes its defaults from recipe/cpu/redraft_cpu_trainer.yaml and calls the same training.

- `platform`: verl's device interface for the CPU (torch on gloo).
- `plain_linear`: a vLLM plugin that keeps linear weights as they are, so that weight sync can load them again.
- `environment`: variables for verl, vLLM and Ray, and package metadata that the CPU build of vLLM lacks.

verl does not support this; it is for trying things out and for tests, with models of up to a few hundred million
parameters.
"""
