"""The nouns that flow between the steps: splits, batches, failed rows, shards, plans."""
