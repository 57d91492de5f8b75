"""From a configuration to a running job: checks, plan, and where it runs."""
