"""What a job will take before it runs: units, limiting stage, memory, time, cost, and shapes that would hang or spill."""
