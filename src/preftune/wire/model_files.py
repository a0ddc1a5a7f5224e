"""Names of files in a model's folder that processes without torch look for as well."""

REWARD_FILE = "reward_model.json"  # in a reward model's folder and no other
