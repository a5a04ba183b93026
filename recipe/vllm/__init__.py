"""redraft inside vLLM: a `custom_class` proposer, the plugin entry point and the patches that they need."""
