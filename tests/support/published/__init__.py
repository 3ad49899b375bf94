"""What others publish: layouts of models, the hub, a reporter."""
