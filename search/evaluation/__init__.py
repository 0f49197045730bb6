"""After the search: the best again over fresh seeds, beside baselines, and the test split."""
