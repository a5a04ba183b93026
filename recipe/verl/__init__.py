"""redraft for verl: subclasses of verl's V1 trainer that draft from what the policy already wrote.

`python -m redraft.recipe.main_ppo` takes verl's own arguments plus the group `redraft.*`
(recipe/config/redraft/default.yaml describes each option). No file of verl is edited:

- `trainer`: a mixin over verl's trainers and the table of modes that it works with. Starts or finds the draft
  servers, points the rollout engines at them, logs the figures.
- `agent_loop`: publishes every finished response the moment its agent loop ends, training and validation.
- `rollout_server`, `worker_extension`: hand vLLM's own per-request speculation counters to the agent loop, and the
  proposers' to the trainer.
- `batch_agent_loop`, `register_server`: parts for verl's trainers from before V1 (doc/trainers.md).
- `draft_servers`: one `redraft serve` on every Ray node (`redraft.recipe.ray_servers`).
- `tally`, `report`: what is counted, and what is logged of it.

Figures
-------

Each step's metrics, in verl's tracker and in `redraft.metrics_file`:

| metric                         | meaning                                                                         |
| ------------------------------ | ------------------------------------------------------------------------------- |
| redraft/mean_acceptance_length | tokens per engine step that verified a draft, bonus token included (as vLLM)     |
| redraft/tokens_per_step        | tokens per engine step of a request, steps without a draft included             |
| redraft/acceptance_rate        | accepted / drafted tokens                                                       |
| redraft/drafted, /accepted     | tokens                                                                          |
| redraft/accepted_share/<source>| share of the accepted tokens that came from `history`, `live`                   |
| redraft/draft_seconds          | wall time spent in drafting, summed over engines                                |
| redraft/generated_tokens       | tokens that the engines wrote in this step                                      |
| redraft/generation_seconds     | from the step's first request to the end of its last agent loop, before rewards |
| redraft/tokens_per_second      | generated_tokens / generation_seconds                                           |
| redraft/published, /lost       | responses acknowledged by a draft server, and given up, since the start         |
| redraft/unavailable            | requests that did without history as no server answered                         |
| redraft/server_failures        | questions of the trainer that no server answered, since the start               |
| redraft/index_bytes            | memory of the indexes that the engines hold                                     |

Validations carry the same under `redraft/validation/`, epochs (at their last step) under `redraft/epoch/`.

The metrics file
----------------

One JSON object a line, flushed as it is written, so that it can be followed while the run goes on. All have
`kind` ("start", "step", "validation", "epoch", "end"), `time` (seconds since 1970), `run`, `step`, `epoch`; those
that report rollouts have the metrics above without their prefix, `by_source`
({source: {"drafted": tokens, "accepted": tokens}}), `reward` (mean, null when there is none) and `trajectories`;
a step has `timing` (verl's timing_s/*, in seconds). Fields of unmeasured things are null; while no draft server
answers, `by_source` is empty unless the engines tell it themselves, as they normally do.

To compare with plain decoding on the same weights and prompts, set `redraft.export_dir`: after every epoch's last
update the policy lies in `<export_dir>/epoch_<n>/huggingface`, ready for `vllm.LLM` with and without a proposer.
Weights change at every step, so epoch n was rolled out with the weights from `epoch_<n-1>` (the starting model for
epoch 0) up to those before its last update.
"""
