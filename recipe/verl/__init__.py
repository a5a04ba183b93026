"""redraft for verl: subclasses of verl's V1 trainer that draft from what the policy already wrote.

`python -m redraft.recipe.main_ppo` takes verl's own arguments plus the group `redraft.*`
(recipe/config/redraft/default.yaml describes each option). No file of verl is edited:

- `trainer`: a mixin over verl's trainers and the table of modes that it works with. Starts or finds the draft
  servers, points the rollout engines at them, logs the figures.
- `agent_loop`: publishes every finished response the moment its agent loop ends, training and validation.
- `rollout_server`, `worker_extension`: hand vLLM's own per-request speculation counters to the agent loop, and the
  proposers' to the trainer.
- `batch_agent_loop`, `fully_async`, `register_server`: parts for verl's trainers from before V1 (doc/trainers.md).
- `draft_servers`: one `redraft serve` on every Ray node (`redraft.recipe.ray_servers`).
- `tally`, `report`: what is counted, and what is logged of it.

What is logged in verl's tracker and in `redraft.metrics_file`, and in which units: doc/metrics.md. `report.FIGURES` has
the names.

To compare with plain decoding on the same weights and prompts, set `redraft.export_dir`: after every epoch's last
update the policy lies in `<export_dir>/epoch_<n>/huggingface`, ready for `vllm.LLM` with and without a proposer.
Weights change at every step, so epoch n was rolled out with the weights from `epoch_<n-1>` (the starting model for
epoch 0) up to those before its last update.
"""
