"""One job: flags, preflight, graph, summary."""
