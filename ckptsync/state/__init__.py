"""What a training job holds in memory, on its way into files and back. The only room below the integrations that knows torch."""
