"""The nouns that flow between the steps: splits, batches, columns, failed rows, shards."""
